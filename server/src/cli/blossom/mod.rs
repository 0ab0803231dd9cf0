//! `relay blossom`: manages the blobs of a running relay, over the administrators' API.
//!
//! Requests are signed (NIP-98) by the owner's key of a local relay, which is made when it is first needed, or by the key of an
//! administrator (`policy.admin_pubkeys`).

mod show;

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use relay_agent::identity::parse_pubkey;
use relay_blossom::Sha256;
use serde_json::{Value, json};

use super::client::Client;
use super::exit::Failure;
use super::remote::{Remote, print};

/// Blobs that are asked for at a time.
const PAGE: usize = 1_000;
/// Sweeps that one `gc` asks for at most: the clocks of both machines may differ.
const SWEEPS_MAX: u32 = 1_000;

/// Options and the subcommand.
#[derive(Args, Debug)]
pub struct BlossomArgs {
    #[command(subcommand)]
    command: BlossomCommand,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Subcommand, Debug)]
enum BlossomCommand {
    /// List blobs, newest first
    List {
        /// Only those of this key: an npub, or 64 hexadecimal digits
        #[arg(long, value_name = "KEY")]
        owner: Option<String>,
        /// How many [default: all]
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Print all that is known of a blob: owners, events, reports, whether it is banned
    Stat {
        /// Its hash
        sha256: Sha256,
    },
    /// Delete blobs, whoever owns them; they may be uploaded again
    Delete {
        /// Their hashes
        #[arg(required = true)]
        sha256: Vec<Sha256>,
    },
    /// Delete blobs and refuse them from now on
    Ban {
        /// Their hashes
        #[arg(required = true)]
        sha256: Vec<Sha256>,
        /// Why, for administrators
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Lift the ban of blobs
    Unban {
        /// Their hashes
        #[arg(required = true)]
        sha256: Vec<Sha256>,
    },
    /// List banned hashes, newest first
    Bans {
        /// How many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// List reports, newest first
    Reports {
        /// How many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Remove what retention and aborted uploads have left, now
    Gc,
}

/// Runs the command.
pub(super) fn run(args: &BlossomArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(args))
}

async fn ask(args: &BlossomArgs) -> Result<(), Failure> {
    let BlossomArgs { command, remote } = args;
    // Wrong arguments are reported before a key is created.
    let owner = match command {
        BlossomCommand::List { owner: Some(owner), .. } => {
            let key = parse_pubkey(owner).ok_or_else(|| {
                Failure::Usage(format!("--owner {owner}: expected an npub or 64 hexadecimal digits"))
            })?;
            Some(key.to_string())
        }
        _ => None,
    };
    let client = remote.client()?;
    match command {
        BlossomCommand::List { limit, .. } => {
            let blobs = list(&client, owner.as_deref(), *limit).await?;
            remote.show(&json!({ "blobs": blobs }), show::list)
        }
        BlossomCommand::Stat { sha256 } => {
            let found = client.send("GET", &format!("/blossom/blobs/{sha256}"), None).await?;
            remote.print_document(&found)
        }
        BlossomCommand::Delete { sha256 } => {
            each(args, &client, sha256, "DELETE", "blobs", None, "is deleted").await
        }
        BlossomCommand::Ban { sha256, reason } => {
            let body = json!({ "reason": reason }).to_string().into_bytes();
            each(args, &client, sha256, "PUT", "bans", Some(body), "is banned").await
        }
        BlossomCommand::Unban { sha256 } => {
            each(args, &client, sha256, "DELETE", "bans", None, "is no longer banned").await
        }
        BlossomCommand::Bans { limit } => {
            let found = client.send("GET", &format!("/blossom/bans?limit={limit}"), None).await?;
            remote.show(&found, show::bans)
        }
        BlossomCommand::Reports { limit } => {
            let found = client.send("GET", &format!("/blossom/reports?limit={limit}"), None).await?;
            remote.show(&found, show::reports)
        }
        BlossomCommand::Gc => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let mut swept = Value::Null;
            for _ in 0..SWEEPS_MAX {
                swept = client.send("POST", "/blossom/gc", None).await?;
                // A sweep is bounded; if more has expired, it says so.
                if swept["next"].as_u64().is_none_or(|next| next > now) {
                    break;
                }
            }
            remote.show(&swept, show::swept)
        }
    }
}

async fn list(client: &Client, owner: Option<&str>, limit: Option<usize>) -> Result<Vec<Value>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    let owner = owner.map_or(String::new(), |owner| format!("&owner={owner}"));
    let mut blobs: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    while blobs.len() < limit {
        let wanted = PAGE.min(limit - blobs.len());
        let path = format!("/blossom/blobs?limit={wanted}{owner}{cursor}");
        let mut page = client.send("GET", &path, None).await?;
        let Some(page) = page["blobs"].as_array_mut() else { break };
        let count = page.len();
        blobs.append(page);
        let last = blobs.last().and_then(|blob| blob["sha256"].as_str()?.parse::<Sha256>().ok());
        match last {
            Some(last) if count == wanted => cursor = format!("&cursor={last}"),
            _ => break,
        }
    }
    Ok(blobs)
}

/// Sends one request for each of these hashes, and goes on after a refusal.
async fn each(
    args: &BlossomArgs,
    client: &Client,
    hashes: &[Sha256],
    method: &str,
    collection: &str,
    body: Option<Vec<u8>>,
    done: &str,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for sha256 in hashes {
        let path = format!("/blossom/{collection}/{sha256}");
        match client.send(method, &path, body.clone()).await {
            Ok(_) if args.remote.json => print(&json!({ "sha256": sha256 }).to_string())?,
            Ok(_) => print(&format!("{sha256} {done}"))?,
            // The reason has been printed.
            Err(Failure::Refused) => outcome = Err(Failure::Refused),
            Err(failure) => return Err(failure),
        }
    }
    outcome
}
