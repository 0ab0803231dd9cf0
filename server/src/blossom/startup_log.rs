//! Lines of the log at startup about blobs: where they are, and who may upload, so that nobody becomes an open host by accident.

use super::bucket;
use crate::config::Settings;

/// Who may upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uploaders {
    /// Anybody who can sign a token, from anywhere.
    Anybody,
    /// Anybody who pays.
    Paying,
    /// Anybody on this machine; from elsewhere these keys.
    Local(usize),
    /// These keys.
    Listed(usize),
}

fn uploaders(settings: &Settings, admins: usize) -> Uploaders {
    let listed = admins
        + settings.blossom.upload_pubkeys.len()
        + settings.policy.allow_pubkeys.as_ref().map_or(0, Vec::len);
    match settings.blossom.open {
        Some(true) => Uploaders::Anybody,
        None if settings.blossom.payment.sells_uploads() => Uploaders::Paying,
        None if settings.url.is_none() && settings.is_loopback() => Uploaders::Local(listed),
        _ => Uploaders::Listed(listed),
    }
}

/// Whether anybody may store small blobs for free until the disk is full.
fn stores_free_without_limit(settings: &Settings) -> bool {
    settings.blossom.payment.free_bytes > 0 && settings.blossom.total_bytes_max.is_none()
}

/// Logs both.
pub(super) fn log_settings(settings: &Settings, admins: usize) {
    let place = match &settings.blobs.bucket {
        Some(name) => bucket::name(name, &settings.blobs),
        None => {
            let folder = settings.data.join("blobs");
            std::fs::canonicalize(&folder).unwrap_or(folder).display().to_string()
        }
    };
    tracing::info!("blobs in {place}");
    match uploaders(settings, admins) {
        Uploaders::Anybody if settings.is_loopback() && settings.url.is_none() => {
            tracing::info!("anybody may upload blobs (blossom.open)");
        }
        Uploaders::Anybody => match settings.blossom.total_bytes_max {
            Some(bytes) => {
                tracing::warn!("anybody may upload blobs (blossom.open), {} MiB in all", bytes >> 20);
            }
            None => tracing::warn!(
                "anybody may upload blobs (blossom.open) until the disk is full: set blossom.total_bytes_max and \
                 blossom.key_bytes_max"
            ),
        },
        Uploaders::Paying => {
            let price = settings.blossom.payment.price_text().unwrap_or_default();
            tracing::info!("anybody who pays may upload blobs (blossom.payment): {price}");
            if stores_free_without_limit(settings) {
                tracing::warn!(
                    "small blobs are free (blossom.payment.free_bytes) until the disk is full: set \
                     blossom.total_bytes_max and blossom.key_bytes_max"
                );
            }
        }
        Uploaders::Local(listed) => tracing::info!(
            "anybody on this machine may upload blobs, from elsewhere only the {listed} keys that are listed"
        ),
        Uploaders::Listed(0) => tracing::warn!(
            "nobody may upload blobs: list keys in blossom.upload_pubkeys or policy.admin_pubkeys, or set blossom.open"
        ),
        Uploaders::Listed(listed) => {
            tracing::info!("only the {listed} keys that are listed may upload blobs");
        }
    }
}

#[cfg(test)]
mod tests {
    use relay_engine::types::PubKey;

    use super::*;

    #[test]
    fn only_on_this_machine_or_by_a_setting_anybody_may_upload() {
        let make = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings
        };
        let public = |settings: &mut Settings| settings.listen = "0.0.0.0:80".to_owned();
        let key = PubKey([7; 32]);
        let cases = [
            (make(|_| ()), 0, Uploaders::Local(0)),
            (make(|_| ()), 1, Uploaders::Local(1)),
            (make(|s| s.url = Some("wss://relay.example".into())), 0, Uploaders::Listed(0)),
            (make(public), 0, Uploaders::Listed(0)),
            (make(public), 2, Uploaders::Listed(2)),
            (make(|s| s.blossom.open = Some(false)), 0, Uploaders::Listed(0)),
            (make(|s| s.blossom.open = Some(true)), 0, Uploaders::Anybody),
        ];
        let selling = |open: Option<bool>| {
            let mut settings = make(|settings| settings.listen = "0.0.0.0:80".to_owned());
            let payment = &mut settings.blossom.payment;
            (payment.pubkey, payment.upload_msat_per_mib) = (Some(key), 1);
            settings.blossom.open = open;
            settings
        };
        let sold = [(selling(None), 1, Uploaders::Paying), (selling(Some(false)), 1, Uploaders::Listed(1))];
        for (settings, admins, want) in cases.into_iter().chain(sold) {
            assert_eq!(uploaders(&settings, admins), want, "{settings:?}");
        }
        let mut free = selling(None);
        assert!(!stores_free_without_limit(&free));
        free.blossom.payment.free_bytes = 1;
        assert!(stores_free_without_limit(&free));
        free.blossom.total_bytes_max = Some(1);
        assert!(!stores_free_without_limit(&free));
        let mut listed = make(public);
        listed.blossom.upload_pubkeys = vec![key];
        listed.policy.allow_pubkeys = Some(vec![key]);
        assert_eq!(uploaders(&listed, 1), Uploaders::Listed(3));
    }
}
