//! An agent that is paid (BUD-07), and its wallet.

use std::collections::{BTreeSet, HashMap};

use relay_site::{PaymentOutcome, PaymentRequest, Purchase};

/// See the module. Invoices are numbered from 1.
#[derive(Clone, Debug, Default)]
pub struct Seller {
    /// What it was asked, in order.
    pub asked: Vec<PaymentRequest>,
    /// Whether it does not answer.
    pub is_away: bool,
    /// Whether it has been asked for too many invoices.
    pub is_flooded: bool,
    invoices: HashMap<String, (Purchase, u64)>,
    paid: BTreeSet<String>,
    spent: BTreeSet<String>,
}

impl Seller {
    /// The number of invoices.
    pub fn invoices(&self) -> usize {
        self.invoices.len()
    }

    /// Proofs that are spent.
    pub fn spent(&self) -> usize {
        self.spent.len()
    }

    /// How often it was asked whether an invoice is paid.
    pub fn checks(&self) -> usize {
        self.asked.iter().filter(|asked| matches!(asked, PaymentRequest::Check { spends: false, .. })).count()
    }

    /// Somebody pays an invoice. Its preimage.
    pub fn pay(&mut self, invoice: &str) -> String {
        let preimage = format!("{:0>64}", invoice.trim_start_matches("lnbc"));
        self.paid.insert(preimage.clone());
        preimage
    }

    /// A payment is spent elsewhere.
    pub fn spend(&mut self, preimage: &str) {
        self.spent.insert(preimage.to_owned());
    }

    /// What it asks for a purchase, in millisatoshis, by the invoice.
    pub fn msat(&self, invoice: &str) -> Option<u64> {
        let preimage = format!("{:0>64}", invoice.trim_start_matches("lnbc"));
        self.invoices.get(&preimage).map(|(_, msat)| *msat)
    }

    pub(super) fn answer(&mut self, request: PaymentRequest) -> PaymentOutcome {
        self.asked.push(request.clone());
        if self.is_away {
            return PaymentOutcome::Unavailable("the wallet does not answer".to_owned());
        }
        match request {
            PaymentRequest::Quote { .. } if self.is_flooded => {
                PaymentOutcome::TooMany("too many invoices were asked for".to_owned())
            }
            PaymentRequest::Quote { purchase, msat } => {
                let mut known = self.invoices.iter();
                let open =
                    known.find(|(preimage, (own, _))| *own == purchase && !self.paid.contains(*preimage));
                let number = open.map(|(preimage, _)| preimage.trim_start_matches('0').to_owned());
                let number = number.unwrap_or_else(|| (self.invoices.len() + 1).to_string());
                self.invoices.insert(format!("{number:0>64}"), (purchase, msat));
                PaymentOutcome::Invoice(format!("lnbc{number}"))
            }
            PaymentRequest::Check { purchase, preimage, spends } => {
                let refused = |why: &str| PaymentOutcome::Refused(why.to_owned());
                match self.invoices.get(&preimage) {
                    None => return refused("no invoice of this server has this preimage"),
                    Some((own, _)) if *own != purchase => return refused("it was for something else"),
                    Some(_) => {}
                }
                if !self.paid.contains(&preimage) {
                    return refused("this invoice is not paid");
                }
                if self.spent.contains(&preimage) {
                    return refused("this payment is spent");
                }
                if spends {
                    self.spent.insert(preimage);
                }
                PaymentOutcome::Paid
            }
        }
    }
}
