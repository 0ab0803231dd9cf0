//! One agent, as its customers, its owner and its host see it.

mod admission;
mod approvals;
mod attempts;
mod bunker;
mod credit;
mod echo;
mod expired;
mod faults;
mod hold_answers;
mod holds;
mod inputs;
#[path = "../invoices/mod.rs"]
mod invoices;
mod members;
mod memory;
mod owner;
mod payment_simulation;
mod payments;
mod postpay;
mod prepaid;
mod purchases;
mod refunds;
mod removal_record;
mod signer;
mod signer_idle;
mod simulation;
mod sizes;
mod stored_result;
mod wallet;
mod wallet_answers;
mod world;
mod zap_keys;
mod zap_receipts;
mod zapping;
mod zaps;
