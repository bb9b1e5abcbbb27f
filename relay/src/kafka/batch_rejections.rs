//! Kafka rejects whole batches. This tells a record rejected on its own from one rejected with others.
//!
//! A broker accepts or rejects the records of a batch together, and the library reports that for each record. A topic
//! with a small max.message.bytes so rejects records that fit, because the batch does not. A record rejected with others
//! is sent again alone; only a record that was alone is rejected for good.

use std::cell::RefCell;

use rdkafka::types::RDKafkaErrorCode;

use super::failure::Failure;
use super::in_flight::Delivery;

thread_local! {
    /// What Kafka rejected of the one batch whose reports this thread serves. `None` while it serves none, or those of
    /// several batches at a time.
    static OF_ONE_BATCH: RefCell<Option<Vec<Rejection>>> = const { RefCell::new(None) };
}

/// A delivery that Kafka rejected, and the code.
type Rejection = (Delivery, RDKafkaErrorCode);

/// Serves the reports of one batch by calling `serve`, then decides what the rejections among them mean. Without
/// rejections, nothing is allocated.
pub(super) fn serving_one_batch(serve: impl FnOnce()) {
    OF_ONE_BATCH.set(Some(Vec::new()));
    serve();
    decide(OF_ONE_BATCH.take().unwrap_or_default());
}

/// Notes a rejection that may be due to another record. Where the rest of its batch is unknown, it counts as such.
pub(super) fn note(delivery: Delivery, code: RDKafkaErrorCode) {
    let unknown = OF_ONE_BATCH.with_borrow_mut(|rejected| match rejected {
        Some(rejected) => {
            rejected.push((delivery, code));
            None
        }
        None => Some(delivery),
    });
    if let Some(delivery) = unknown {
        delivery.finish(Err(Failure::RejectedInBatch));
    }
}

/// Finishes what was rejected of one batch.
fn decide(rejected: Vec<Rejection>) {
    let is_alone = rejected.len() == 1;
    for (delivery, code) in rejected {
        // This code itself means that there were others.
        let failure = match code {
            RDKafkaErrorCode::InvalidDifferentRecord => Failure::RejectedInBatch,
            code if is_alone => Failure::Rejected(code),
            _ => Failure::RejectedInBatch,
        };
        delivery.finish(Err(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::super::in_flight::tests::{first, table};
    use super::*;
    use rdkafka::types::RDKafkaErrorCode as Code;

    /// The outcomes of the records of one batch that Kafka rejects with these codes.
    fn outcomes(codes: &[Code]) -> Vec<Failure> {
        let table = table(10, 10);
        let (deliveries, outcomes): (Vec<_>, Vec<_>) =
            (0..codes.len()).map(|id| first(&table, &id.to_string())).unzip();
        serving_one_batch(|| {
            deliveries.into_iter().zip(codes).for_each(|(delivery, code)| note(delivery, *code))
        });
        assert_eq!(table.in_flight(), 0);
        outcomes.into_iter().map(|mut outcome| outcome.try_recv().unwrap().unwrap_err()).collect()
    }

    #[test]
    fn only_a_record_alone_in_its_batch_is_rejected_for_good() {
        assert_eq!(outcomes(&[Code::MessageSizeTooLarge]), [Failure::Rejected(Code::MessageSizeTooLarge)]);
        assert_eq!(outcomes(&[Code::MessageSizeTooLarge; 2]), [const { Failure::RejectedInBatch }; 2]);
        let one_of_two = [Code::InvalidRecord, Code::InvalidDifferentRecord];
        assert_eq!(outcomes(&one_of_two), [const { Failure::RejectedInBatch }; 2]);
        assert_eq!(outcomes(&[Code::InvalidDifferentRecord]), [Failure::RejectedInBatch]);
    }

    #[test]
    fn a_rejection_of_an_unknown_batch_counts_as_in_batch() {
        let (delivery, mut outcome) = first(&table(1, 1), "1");
        note(delivery, Code::MessageSizeTooLarge);
        assert_eq!(outcome.try_recv().unwrap(), Err(Failure::RejectedInBatch));
    }
}
