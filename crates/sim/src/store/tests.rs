//! Leases, lock-delay, older states and compaction as the servers do them.

use super::*;

const T: Monotonic = Monotonic(1_000_000_000);
const TTL: Duration = Duration::from_secs(30);

fn ask(store: &mut Store, now: Monotonic, request: &Request, random: &mut Random) -> Answer {
    let answer = store.carry_out(now, request, Duration::ZERO, random).0;
    store.history.mark(now);
    answer
}

fn granted(store: &mut Store, random: &mut Random) -> (LeaseId, Duration) {
    match ask(store, T, &Request::Grant { ttl: TTL }, random) {
        Answer::Lease { id, ttl } => (id, ttl),
        other => panic!("no lease: {other:?}"),
    }
}

fn lock(lease: &LeaseId) -> Request {
    Request::Transaction {
        key: "leader".into(),
        compares: vec![Compare::Absent],
        then: Then::Put { value: "m0".into(), lease: Some(lease.clone()) },
    }
}

fn applied(answer: &Answer) -> bool {
    matches!(answer, Answer::Outcome { applied: true, .. })
}

#[test]
fn a_6_a_session_has_half_the_ttl_and_lives_up_to_twice_that() {
    let (mut shortest, mut longest) = (TTL, Duration::ZERO);
    for seed in 0..200 {
        let (mut store, mut random) = (Store::new(true), Random::new(seed));
        let (id, ttl) = granted(&mut store, &mut random);
        assert_eq!(ttl, TTL / 2);
        let lives = store.leases[&id.0].ends.since(T);
        assert!(lives >= TTL / 2 && lives <= TTL, "{lives:?}");
        (shortest, longest) = (shortest.min(lives), longest.max(lives));
    }
    assert!(
        shortest < Duration::from_secs(16) && longest > Duration::from_secs(29),
        "{shortest:?} {longest:?}"
    );
}

#[test]
fn a_renewal_moves_the_end_of_a_lease() {
    for consul in [false, true] {
        let (mut store, mut random) = (Store::new(consul), Random::new(1));
        let (id, ttl) = granted(&mut store, &mut random);
        let later = T + ttl;
        assert!(matches!(
            ask(&mut store, later, &Request::KeepAlive(id.clone()), &mut random),
            Answer::Lease { .. }
        ));
        assert!(store.leases[&id.0].ends >= later + ttl);
        assert!(matches!(store.expire(later, &id.0), Expiry::Lives(_)));
        assert_eq!(store.expire(later + ttl * 2 + Duration::from_secs(1), &id.0), Expiry::Over);
        let answer = ask(&mut store, later + ttl * 3, &Request::KeepAlive(id), &mut random);
        assert!(matches!(answer, Answer::LeaseNotFound));
    }
}

#[test]
fn a_6_a_key_of_an_invalidated_session_cannot_be_locked_for_a_millisecond() {
    for consul in [false, true] {
        let (mut store, mut random) = (Store::new(consul), Random::new(1));
        let (lost, _) = granted(&mut store, &mut random);
        let (other, _) = granted(&mut store, &mut random);
        assert!(applied(&ask(&mut store, T, &lock(&lost), &mut random)));
        let over = T + TTL * 2;
        assert_eq!(store.expire(over, &lost.0), Expiry::Over);
        assert!(!store.keys.contains_key("leader"));
        let soon = over + Duration::from_micros(900);
        assert_eq!(applied(&ask(&mut store, soon, &lock(&other), &mut random)), !consul);
        let late = over + Duration::from_millis(1);
        assert_eq!(applied(&ask(&mut store, late, &lock(&other), &mut random)), consul);
    }
}

#[test]
fn an_older_state_is_what_it_was_and_not_before_what_was_seen() {
    let (mut store, mut random) = (Store::new(true), Random::new(1));
    let mut revisions = Vec::new();
    for (second, value) in ["1", "2", "3"].into_iter().enumerate() {
        revisions.push(store.put("status", value, None));
        if second == 1 {
            store.put("failover", "{}", None);
        }
        store.history.mark(T + Duration::from_secs(second as u64));
    }
    store.remove("status");
    store.history.mark(T + Duration::from_secs(3));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let read = Request::Range { fresh: false, not_before: revisions[1] };
        let moment = T + Duration::from_secs(5);
        let (answer, revision) = store.carry_out(moment, &read, Duration::from_secs(9), &mut random);
        let Answer::Keys(keys) = answer else { panic!("no keys") };
        assert!(revision >= revisions[1]);
        seen.insert(keys.get("status").map(|raw| raw.value.clone()));
    }
    let expected = [None, Some("2".to_owned()), Some("3".to_owned())];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    let read = Request::Range { fresh: true, not_before: 0 };
    let (answer, _) = store.carry_out(T + TTL, &read, Duration::from_secs(9), &mut random);
    assert!(matches!(answer, Answer::Keys(keys) if !keys.contains_key("status")));
}

#[test]
fn a_log_that_grows_long_is_cut() {
    let mut store = Store::new(false);
    for number in 0..1000_u64 {
        store.put("status", &number.to_string(), None);
        store.history.mark(T + Duration::from_secs(number));
    }
    let compacted = store.history.compacted();
    assert!(compacted > 700 && compacted < 1000, "{compacted}");
    assert_eq!(store.history.between(0, 999).first().map(|change| change.revision), Some(compacted + 1));
    assert_eq!(store.history.revision_at(T), compacted);
    store.compact(1000);
    assert_eq!(store.history.compacted(), 1000);
    assert!(store.history.between(0, 1000).is_empty());
}

#[test]
fn a_new_leader_of_the_store_gives_leases_their_ttl_again() {
    let (mut store, mut random) = (Store::new(false), Random::new(1));
    let (id, _) = granted(&mut store, &mut random);
    let later = T + TTL;
    store.new_leader(later);
    assert_eq!(store.leases[&id.0].ends, later + TTL);
}
