//! The delivery tags of one channel.

use super::*;

impl Deliveries {
    pub(in crate::session) fn hand_over(&mut self, broker: u64) -> u64 {
        let tag = self.number(broker);
        let known = Known {
            task: Some(broker.to_string().into()),
            ..Known::default()
        };
        self.shown(tag, broker, known);
        tag
    }
}

#[test]
fn a_tag_is_found_though_others_are_missing_before_it() {
    let mut deliveries = Deliveries::default();
    // Deliveries without acknowledgement take tags too.
    for tag in [2, 3, 7, 8, 20] {
        assert_eq!(deliveries.hand_over(tag), tag);
    }
    let mut settled = Vec::new();
    for tag in [8, 7, 5, 21, 1, 8, 20, 2, 3] {
        let pass = deliveries.settle(tag, false, |known| settled.extend(known.task));
        assert_eq!(pass, Pass::Verbatim, "{tag}");
    }
    assert_eq!(settled, ["8", "7", "20", "2", "3"].map(Arc::from));
    assert_eq!((deliveries.unsettled(), deliveries.remembered()), (0, 0));
}

/// Five deliveries, of which the second was held until all others had gone.
fn with_a_late_one() -> Deliveries {
    let mut deliveries = Deliveries::default();
    assert_eq!(deliveries.hand_over(1), 1);
    deliveries.held(2);
    for tag in [3, 4, 5] {
        assert_eq!(deliveries.hand_over(tag), tag);
    }
    deliveries.unheld(2);
    assert_eq!(deliveries.hand_over(2), 6);
    deliveries
}

#[test]
fn what_goes_late_gets_a_tag_above_all_before_it() {
    let mut deliveries = with_a_late_one();
    assert!(!deliveries.agrees(6));
    assert_eq!(deliveries.hand_over(6), 7);
    // A tag that the client never sees, of a duplicate perhaps, brings both together again.
    assert!(deliveries.agrees(8));
    assert_eq!(deliveries.hand_over(8), 8);
}

#[test]
fn each_tag_of_the_clients_settles_its_own_delivery() {
    let mut deliveries = with_a_late_one();
    assert_eq!(deliveries.settle(6, false, |_| ()), Pass::Singly(vec![2]));
    assert_eq!(
        deliveries.settle(6, false, |_| panic!("twice")),
        Pass::Singly(vec![2]),
        "which the broker refuses"
    );
    assert_eq!(deliveries.settle(3, false, |_| ()), Pass::Verbatim);
}

#[test]
fn a_multiple_settles_exactly_what_the_client_has_seen_up_to_its_tag() {
    for (tag, pass) in [
        (1, Pass::UpTo(1)),
        (3, Pass::Singly(vec![1, 3])),
        (5, Pass::Singly(vec![1, 3, 4, 5])),
        (6, Pass::UpTo(5)),
        (0, Pass::UpTo(5)),
    ] {
        let mut deliveries = with_a_late_one();
        assert_eq!(deliveries.settle(tag, true, |_| ()), pass, "{tag}");
    }
}

#[test]
fn a_multiple_never_settles_what_is_held() {
    let mut deliveries = Deliveries::default();
    deliveries.held(1);
    deliveries.hand_over(2);
    deliveries.held(3);
    deliveries.hand_over(4);
    assert!(!deliveries.is_plain());
    assert_eq!(deliveries.settle(4, true, |_| ()), Pass::Singly(vec![2, 4]));
    assert_eq!(deliveries.settle(4, true, |_| panic!("twice")), Pass::Swallow);
}
