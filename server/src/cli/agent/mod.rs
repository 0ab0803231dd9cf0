//! `relay agent`: deploys agents on a running relay and looks after them, over its HTTP API.
//!
//! Requests are signed (NIP-98) by the owner's key of a local relay, which is made when it is first needed, or by another one.

mod manifest;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use relay_agent::identity::parse_pubkey;
use serde_json::{Value, json};

use super::client::Client;
use super::exit::Failure;
use super::remote::{Remote, print, refused};
use crate::agents::owner;
use manifest::Source;

/// Options and the subcommand.
#[derive(Args, Debug)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: AgentCommand,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Subcommand, Debug)]
enum AgentCommand {
    /// Deploy a manifest, or a new version of an agent
    Deploy {
        /// The manifest: TOML or JSON, by the ending of its name; or the output of `relay agent export`
        file: PathBuf,
    },
    /// List agents
    List,
    /// Print an agent's state and manifest
    Show(Agent),
    /// Accept no new jobs; queued jobs wait until it is resumed
    Pause(Agent),
    /// Accept jobs again, and go on with those that wait
    Resume(Agent),
    /// Accept no new jobs; finish those that it has
    Drain(Agent),
    /// Delete it, with its jobs, sessions and log
    Delete(Agent),
    /// List the versions of its manifest
    Versions(Agent),
    /// Make an earlier version the current one again
    Rollback {
        #[command(flatten)]
        agent: Agent,
        /// The number of the version
        version: u32,
    },
    /// List the refunds that wait for the owner's approval
    Refunds(Agent),
    /// List what is due to recipients of shares (payment.splits)
    Shares(Agent),
    /// Approve a refund: it is paid
    Approve(Refund),
    /// Decline a refund: it is credit again
    Decline(Refund),
    /// Print its log
    Logs {
        #[command(flatten)]
        agent: Agent,
        /// Follow the log until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Print its jobs, newest first
    History {
        #[command(flatten)]
        agent: Agent,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Print its manifest, sessions and history, without keys, as JSON
    Export(Agent),
    /// Print a new key pair; nothing is sent or stored
    Keygen,
}

#[derive(Args, Debug)]
struct Agent {
    /// Its npub, its key in hexadecimal, or its name
    agent: String,
}

#[derive(Args, Debug)]
struct Refund {
    #[command(flatten)]
    agent: Agent,
    /// Its payment hash
    refund: String,
}

/// Runs the command.
pub(super) fn run(args: &AgentArgs) -> Result<(), Failure> {
    if matches!(args.command, AgentCommand::Keygen) {
        return keygen(args.remote.json);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(args))
}

fn keygen(as_json: bool) -> Result<(), Failure> {
    let keys = owner::new_keys()?;
    let (nsec, npub, pubkey) = (keys.nsec(), keys.npub(), keys.pubkey().to_string());
    match as_json {
        true => print(&json!({ "nsec": nsec, "npub": npub, "pubkey": pubkey }).to_string()),
        false => print(&format!("nsec    {nsec}\nnpub    {npub}\npubkey  {pubkey}")),
    }
}

async fn ask(args: &AgentArgs) -> Result<(), Failure> {
    let client = args.remote.client()?;
    let document = match &args.command {
        AgentCommand::Deploy { file } => {
            let Source { manifest, export } = manifest::read(file)?;
            let deployed = client.send("POST", "/agents", Some(manifest)).await?;
            if let Some(export) = export {
                let key = deployed["pubkey"].as_str().and_then(parse_pubkey);
                let key = key.ok_or_else(|| {
                    Failure::External(
                        "the relay's response has no public key of the deployed agent".to_owned(),
                    )
                })?;
                client.send("POST", &format!("/agents/{key}/import"), Some(export)).await?;
            }
            return args.show(&deployed, show::deployed);
        }
        AgentCommand::List => {
            let mut agents = Vec::new();
            let mut offset = Some(0);
            while let Some(next) = offset {
                let page = client.send("GET", &format!("/agents?limit=500&offset={next}"), None).await?;
                agents.extend(page["agents"].as_array().into_iter().flatten().cloned());
                offset = page["next"].as_u64();
            }
            return args.show(&json!({ "agents": agents }), show::list);
        }
        AgentCommand::Show(agent) => {
            let path = client.path(agent, "").await?;
            client.send("GET", &path, None).await?
        }
        AgentCommand::Pause(agent) => return args.command(&client, agent, "pause").await,
        AgentCommand::Resume(agent) => return args.command(&client, agent, "resume").await,
        AgentCommand::Drain(agent) => return args.command(&client, agent, "drain").await,
        AgentCommand::Rollback { agent, version } => {
            return args.command(&client, agent, &format!("rollback?version={version}")).await;
        }
        AgentCommand::Refunds(agent) => {
            let path = format!("/agent/{}/memory", client.key_of(agent).await?);
            return args.show(&client.send("GET", &path, None).await?, show::refunds);
        }
        AgentCommand::Shares(agent) => {
            let path = client.path(agent, "/memory").await?;
            return args.show(&client.send("GET", &path, None).await?, show::shares);
        }
        AgentCommand::Approve(refund) => return args.decide(&client, refund, "approve").await,
        AgentCommand::Decline(refund) => return args.decide(&client, refund, "decline").await,
        AgentCommand::Delete(agent) => {
            let path = client.path(agent, "").await?;
            let deleted = client.send("DELETE", &path, None).await?;
            return args.show(&deleted, show::state);
        }
        AgentCommand::Versions(agent) => {
            let path = client.path(agent, "/versions").await?;
            return args.show(&client.send("GET", &path, None).await?, show::versions);
        }
        AgentCommand::Logs { agent, follow } => {
            let mut after = 0;
            loop {
                let path = client.path(agent, &format!("/logs?limit=500&after={after}")).await?;
                let before = after;
                client
                    .lines(&path, |line| {
                        let document: Value = serde_json::from_str(line).unwrap_or_default();
                        after = document["number"].as_u64().unwrap_or(after).max(after);
                        args.show_line(line)
                    })
                    .await?;
                if after == before {
                    break;
                }
            }
            if *follow {
                let path = client.path(agent, &format!("/logs?follow=1&after={after}")).await?;
                return client.lines(&path, |line| args.show_line(line)).await;
            }
            return Ok(());
        }
        AgentCommand::History { agent, limit } => {
            let path = client.key_of(agent).await?;
            let path = format!("/agent/{path}/history?limit={limit}");
            return args.show(&client.send("GET", &path, None).await?, show::history);
        }
        AgentCommand::Export(agent) => {
            let path = client.path(agent, "/export").await?;
            client.send("GET", &path, None).await?
        }
        AgentCommand::Keygen => return Ok(()),
    };
    args.remote.print_document(&document)
}

impl AgentArgs {
    async fn command(&self, client: &Client, agent: &Agent, command: &str) -> Result<(), Failure> {
        let path = client.path(agent, &format!("/{command}")).await?;
        self.show(&client.send("POST", &path, None).await?, show::state)
    }

    async fn decide(
        &self,
        client: &Client,
        Refund { agent, refund }: &Refund,
        word: &str,
    ) -> Result<(), Failure> {
        let path = client.path(agent, &format!("/{word}?refund={refund}")).await?;
        self.show(&client.send("POST", &path, None).await?, show::refund)
    }

    fn show(&self, document: &Value, words: fn(&Value) -> String) -> Result<(), Failure> {
        self.remote.show(document, words)
    }

    /// A line of a log.
    fn show_line(&self, line: &str) -> Result<(), Failure> {
        match serde_json::from_str(line) {
            Ok(document) if !self.remote.json => print(&show::log_line(&document)),
            _ => print(line),
        }
    }
}

impl Client {
    /// A path of the API below an agent.
    async fn path(&self, agent: &Agent, rest: &str) -> Result<String, Failure> {
        Ok(format!("/agents/{}{rest}", self.key_of(agent).await?))
    }

    /// The key of an agent that is named by its npub, its key or its name.
    async fn key_of(&self, Agent { agent }: &Agent) -> Result<String, Failure> {
        if let Some(key) = parse_pubkey(agent) {
            return Ok(key.to_string());
        }
        let (mut found, mut offset) = (Vec::new(), Some(0));
        while let Some(next) = offset {
            let page = self.send("GET", &format!("/agents?limit=500&offset={next}"), None).await?;
            let agents = page["agents"].as_array().into_iter().flatten();
            let named = agents.filter(|entry| entry["name"] == agent.as_str());
            // A key is signed for, so it has to be one, whatever the relay says.
            let key = |entry: &Value| parse_pubkey(entry["pubkey"].as_str()?).map(|key| key.to_string());
            found.extend(named.filter_map(key));
            offset = page["next"].as_u64();
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(refused(&format!("no agent is called {agent}"))),
            count => Err(refused(&format!("{count} agents are called {agent}: name one by its npub"))),
        }
    }
}
