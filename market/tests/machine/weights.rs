//! How much payments weigh: they never make a provider look worse, and never better than as many keys could before.

use relay_engine::testing::Rng;
use relay_engine::types::{EventId, PubKey};
use relay_market::figures::{ANSWER_SECONDS, Figures, Job, Jobs, figures};
use relay_market::payments::Payment;

const AT: u64 = 1_000;

fn job(customer: u8, is_delivered: bool, is_paid: bool) -> Job {
    let id = |byte: u8| EventId([byte; 32]);
    Job {
        request: id(1),
        customer: PubKey([customer; 32]),
        at: AT,
        is_named: true,
        result: is_delivered.then_some((id(2), AT + 5)),
        payment_required: None,
        payment: (is_delivered && is_paid).then_some(Payment {
            demand: id(3),
            asked_msat: 1_000,
            receipt: id(4),
            zapped: id(1),
        }),
    }
}

fn of(counted: Vec<Job>) -> Figures {
    figures(&Jobs { counted, ..Jobs::default() }, AT + ANSWER_SECONDS)
}

/// Wilson's lower bound, in thousandths, as textbooks have it.
fn wilson(part: f64, count: f64) -> f64 {
    let z = 1.96_f64;
    let centre = part + z.powi(2) / (2.0 * count);
    let margin = z * ((part * (1.0 - part) + z.powi(2) / (4.0 * count)) / count).sqrt();
    1_000.0 * ((centre - margin) / (1.0 + z.powi(2) / count)).max(0.0)
}

#[test]
fn a_customer_who_has_not_paid_is_half_a_customer() {
    for (paying, others, want) in
        [(1, 0, 206), (4, 0, 510), (50, 0, 928), (0, 1, 115), (0, 4, 342), (0, 100, 928)]
    {
        let counted = (0..paying + others).map(|customer| job(customer, true, customer < paying));
        let found = of(counted.collect());
        assert_eq!(found.success_bound, want, "{paying} and {others}");
        assert_eq!((found.paid, found.paying), (u64::from(paying), u64::from(paying)));
        assert_eq!(found.paid_msat, 1_000 * u64::from(paying));
        assert_eq!(found.success, Some(1_000));
    }
}

#[test]
fn receipts_never_make_a_provider_look_worse_nor_better_than_it_could_without() {
    let mut rng = Rng::new(9);
    for round in 0..2_000 {
        let customers = 1 + rng.below(30) as u8;
        let mut jobs: Vec<Job> = Vec::new();
        for customer in 0..customers {
            for _ in 0..=rng.below(3) {
                jobs.push(job(customer, !rng.one_in(3), false));
            }
        }
        let mut bound = of(jobs.clone()).success_bound;
        let (free, mut ratios) = (of(jobs.clone()), Vec::new());
        for customer in 0..customers {
            let own: Vec<&Job> = jobs.iter().filter(|job| job.customer.0[0] == customer).collect();
            let delivered = own.iter().filter(|job| job.result.is_some()).count();
            ratios.push(delivered as f64 / own.len() as f64);
        }
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        // As it is without payments at all, where each customer is one.
        let most = wilson(mean, f64::from(customers));
        assert!(
            (free.success_bound as f64 - wilson(mean, f64::from(customers) / 2.0)).abs() < 1.1,
            "{round}"
        );
        for at in 0..jobs.len() {
            let paid = job(jobs[at].customer.0[0], jobs[at].result.is_some(), true);
            jobs[at] = paid;
            let found = of(jobs.clone());
            assert!(found.success_bound >= bound, "{round}: a receipt more is no harm");
            assert!(found.success_bound as f64 <= most + 0.01, "{round}");
            assert_eq!(
                (found.success, found.customers, found.failed),
                (free.success, free.customers, free.failed)
            );
            bound = found.success_bound;
        }
        let all = of(jobs);
        if all.paying == u64::from(customers) {
            assert!((all.success_bound as f64 - most).abs() < 1.1, "{round}");
        }
    }
}

#[test]
fn sums_are_bounded() {
    let mut jobs = vec![job(1, true, true), job(2, true, true)];
    for job in &mut jobs {
        job.payment.as_mut().unwrap().asked_msat = u64::MAX;
    }
    assert_eq!(of(jobs).paid_msat, 1 << 53);
}
