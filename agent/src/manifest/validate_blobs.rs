//! What a manifest may say of an agent that Blossom's clients pay.

use super::validate::Checked;
use super::{ExecutorConfig, Handler, Manifest, ManifestError, PaymentPolicy, Price};
use crate::job::InputKind;

/// The kind of a job that is a purchase of Blossom's (BUD-07).
pub const KIND_BLOB_PAYMENT: u16 = 5944;

impl Manifest {
    /// Whether jobs of this kind are purchases of Blossom's.
    pub(crate) fn sells_blobs(&self, kind: u16) -> bool {
        let mut handlers = self.handlers.iter().filter(|handler| handler.kind == kind);
        handlers.any(|handler| matches!(handler.executor, ExecutorConfig::BlobPayment(_)))
    }

    /// A purchase has a kind of its own, and is paid before anything is done.
    pub(super) fn check_blob_payment(&self, path: &str, handler: &Handler) -> Checked {
        if !matches!(handler.executor, ExecutorConfig::BlobPayment(_)) {
            return match handler.kind {
                KIND_BLOB_PAYMENT => {
                    let words =
                        format!("must not be {KIND_BLOB_PAYMENT} with an executor other than blob_payment");
                    Err(ManifestError::new(format!("{path}.kind"), words))
                }
                _ => Ok(()),
            };
        }
        let wrong = |path: String, message: &str| {
            Err(ManifestError::new(path, format!("{message} with the executor blob_payment")))
        };
        if handler.kind != KIND_BLOB_PAYMENT {
            return wrong(format!("{path}.kind"), &format!("must be {KIND_BLOB_PAYMENT}"));
        }
        if handler.inputs != [InputKind::Text] {
            return wrong(format!("{path}.inputs"), "must be text alone");
        }
        if handler.price == Price::Free {
            return wrong(format!("{path}.price"), "must be per_job (its msat are the smallest payment)");
        }
        if self.payment.policy != PaymentPolicy::Prepay {
            return wrong("payment.policy".to_owned(), "must be prepay");
        }
        if self.payment.free_quota > 0 {
            return wrong("payment.free_quota".to_owned(), "must be 0");
        }
        Ok(())
    }
}
