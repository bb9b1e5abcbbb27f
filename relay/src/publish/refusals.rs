//! For whose sake Kafka refused a record: its own, or that of another record in the same request.
//!
//! Brokers take a request's records for a partition or refuse them all, and the library passes that on to each. A
//! topic whose largest record is small so refuses records that fit, because too many of them went together. What was
//! refused in company is sent again by itself; only what was alone is refused for good.

use std::cell::RefCell;

use rdkafka::types::RDKafkaErrorCode;

use super::failure::Failure;
use super::ledger::Delivery;

thread_local! {
    /// What Kafka refused of the one request whose reports this thread serves; nothing while it serves none, or those
    /// of several at a time.
    static OF_ONE_REQUEST: RefCell<Option<Vec<Refusal>>> = const { RefCell::new(None) };
}

/// A delivery that Kafka refused, and why.
type Refusal = (Delivery, RDKafkaErrorCode);

/// Serves the reports of one request by calling `serve`, and says then what the refusals among them mean. Where there
/// are none, nothing is allocated.
pub(super) fn serving_one_request(serve: impl FnOnce()) {
    OF_ONE_REQUEST.set(Some(Vec::new()));
    serve();
    settle(OF_ONE_REQUEST.take().unwrap_or_default());
}

/// Takes a refusal that may have been for another record's sake. Where nobody knows which others were in its request,
/// it is taken to be.
pub(super) fn note(delivery: Delivery, code: RDKafkaErrorCode) {
    let unknown = OF_ONE_REQUEST.with_borrow_mut(|refused| match refused {
        Some(refused) => {
            refused.push((delivery, code));
            None
        }
        None => Some(delivery),
    });
    if let Some(delivery) = unknown {
        delivery.finish(Err(Failure::RefusedTogether));
    }
}

/// Finishes what was refused of one request.
fn settle(refused: Vec<Refusal>) {
    let is_alone = refused.len() == 1;
    for (delivery, code) in refused {
        // This one says itself that there were others.
        let failure = match code {
            RDKafkaErrorCode::InvalidDifferentRecord => Failure::RefusedTogether,
            code if is_alone => Failure::Refused(code),
            _ => Failure::RefusedTogether,
        };
        delivery.finish(Err(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::tests::{first, ledger};
    use super::*;
    use rdkafka::types::RDKafkaErrorCode as Code;

    /// What becomes of the records of one request that Kafka refuses so.
    fn outcomes(codes: &[Code]) -> Vec<Failure> {
        let ledger = ledger(10, 10);
        let (deliveries, outcomes): (Vec<_>, Vec<_>) =
            (0..codes.len()).map(|id| first(&ledger, &id.to_string())).unzip();
        serving_one_request(|| {
            deliveries.into_iter().zip(codes).for_each(|(delivery, code)| note(delivery, *code))
        });
        assert_eq!(ledger.in_flight(), 0);
        outcomes.into_iter().map(|mut outcome| outcome.try_recv().unwrap().unwrap_err()).collect()
    }

    #[test]
    fn only_a_record_that_was_alone_in_its_request_is_refused_for_its_own_sake() {
        assert_eq!(outcomes(&[Code::MessageSizeTooLarge]), [Failure::Refused(Code::MessageSizeTooLarge)]);
        assert_eq!(outcomes(&[Code::MessageSizeTooLarge; 2]), [const { Failure::RefusedTogether }; 2]);
        let one_of_two = [Code::InvalidRecord, Code::InvalidDifferentRecord];
        assert_eq!(outcomes(&one_of_two), [const { Failure::RefusedTogether }; 2]);
        assert_eq!(outcomes(&[Code::InvalidDifferentRecord]), [Failure::RefusedTogether]);
    }

    #[test]
    fn a_refusal_among_the_reports_of_several_requests_is_taken_to_be_for_anothers_sake() {
        let (delivery, mut outcome) = first(&ledger(1, 1), "1");
        note(delivery, Code::MessageSizeTooLarge);
        assert_eq!(outcome.try_recv().unwrap(), Err(Failure::RefusedTogether));
    }
}
