//! Table and property tests of single decisions. Whole clusters over time are
//! in `balance::sim`.

use super::*;

const GIB: u64 = 1 << 30;
const NOW: Duration = Duration::from_secs(1000);

/// A name, and what is spoilt under it.
type Case<T> = (&'static str, fn(&mut T));

fn load(runnable: f64) -> Load {
    Load {
        runnable,
        cores: 1,
        speed: None,
        memory_free: 8 * GIB,
        memory_total: 10 * GIB,
        jobs: 0,
        incoming: 0.0,
        accepts: true,
        age: Duration::ZERO,
    }
}

fn id(home: &str) -> JobId {
    format!("{home}-1").parse().unwrap()
}

fn job(name: &str, cpu: u64) -> JobView {
    JobView {
        id: id(name),
        cpu: Duration::from_secs(cpu),
        runnable: 1.0,
        memory: 1 << 20,
        movable: true,
        pinned: false,
        since_arrival: Duration::from_secs(600),
        running_moves: 0,
    }
}

fn peer(node: &str, runnable: f64) -> PeerView {
    PeerView {
        node: node.parse().unwrap(),
        load: load(runnable),
        received_at: NOW,
    }
}

/// splitmix64: small, seeded, the same on every machine.
fn rng(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One question to a fresh balancer.
fn ask(own: &Load, jobs: &[JobView], peers: &[PeerView]) -> Result<(String, String), Idle> {
    let mut balancer = Balancer::new(Settings::default());
    let decisions = balancer.decide(NOW, own, jobs, peers, &mut rng(1));
    match decisions.as_slice() {
        [] => Err(balancer.idle()),
        [one] => Ok((one.job.home.to_string(), one.to.to_string())),
        _ => panic!("more than one outgoing move: {decisions:?}"),
    }
}

fn going(job: &str, to: &str) -> Result<(String, String), Idle> {
    Ok((job.into(), to.into()))
}

#[test]
fn the_oldest_job_goes_to_the_idle_peer() {
    let jobs = [job("a", 10), job("b", 90), job("c", 30)];
    assert_eq!(ask(&load(3.0), &jobs, &[peer("n2", 0.0)]), going("b", "n2"));
}

#[test]
fn of_equally_old_jobs_the_smallest_goes() {
    let mut jobs = [job("a", 10), job("b", 10)];
    jobs[0].memory = GIB;
    assert_eq!(ask(&load(2.0), &jobs, &[peer("n2", 0.0)]), going("b", "n2"));
}

#[test]
fn jobs_that_may_not_move_do_not() {
    let spoil: [Case<JobView>; 8] = [
        ("pinned", |j| j.pinned = true),
        ("unmovable", |j| j.movable = false),
        ("being moved", |j| j.running_moves = 1),
        ("just arrived", |j| {
            j.since_arrival = Duration::from_millis(1900)
        }),
        ("asleep", |j| j.runnable = 0.1),
        ("nonsense", |j| j.runnable = f64::NAN),
        ("young", |j| j.cpu = Duration::from_millis(50)),
        ("too large", |j| j.memory = 9 * GIB),
    ];
    for (what, spoil) in spoil {
        let mut jobs = [job("a", 90), job("b", 80)];
        spoil(&mut jobs[0]);
        spoil(&mut jobs[1]);
        let said = ask(&load(3.0), &jobs, &[peer("n2", 0.0)]);
        assert!(said.is_err(), "{what}: {said:?}");
        let said = ask(
            &load(3.0),
            &[jobs[0].clone(), job("c", 5)],
            &[peer("n2", 0.0)],
        );
        if what == "being moved" {
            assert_eq!(said, Err(Idle::Busy));
        } else {
            assert_eq!(said, going("c", "n2"), "{what}");
        }
    }
}

#[test]
fn a_costly_job_stays_many_times_its_cost() {
    let mut heavy = job("a", 100_000);
    // About 39 s at 110 MB/s, so it must have been here for 390 s.
    heavy.memory = 4 * GIB;
    heavy.since_arrival = Duration::from_secs(300);
    let peers = [peer("n2", 0.0)];
    assert_eq!(ask(&load(2.0), &[heavy.clone()], &peers), Err(Idle::NoJob));
    heavy.since_arrival = Duration::from_secs(500);
    assert_eq!(ask(&load(2.0), &[heavy], &peers), going("a", "n2"));
}

#[test]
fn peers_that_are_no_better_get_nothing() {
    let jobs = [job("a", 1000), job("b", 1000)];
    let not_worth = Err(Idle::NotWorthIt);
    assert_eq!(ask(&load(2.0), &jobs, &[peer("n2", 1.0)]), not_worth);
    // 0.75 + 1.3 is no less than 2.
    assert_eq!(ask(&load(2.0), &jobs, &[peer("n2", 0.75)]), not_worth);
    let mut expecting = peer("n2", 0.0);
    expecting.load.incoming = 1.0;
    assert_eq!(ask(&load(2.0), &jobs, &[expecting]), not_worth);
    let mut full = peer("n2", 0.0);
    full.load.memory_free = full.load.memory_total / 20;
    assert_eq!(ask(&load(2.0), &jobs, &[full]), not_worth);
}

#[test]
fn peers_that_are_stale_closed_or_mad_do_not_exist() {
    let jobs = [job("a", 1000), job("b", 1000)];
    let spoil: [Case<PeerView>; 6] = [
        ("old here", |p| p.received_at = NOW - Duration::from_secs(4)),
        ("old there", |p| p.load.age = Duration::from_secs(4)),
        ("endlessly old", |p| p.load.age = Duration::MAX),
        ("closed", |p| p.load.accepts = false),
        ("negative", |p| p.load.runnable = -5.0),
        ("not a number", |p| p.load.runnable = f64::NAN),
    ];
    for (what, spoil) in spoil {
        let mut bad = peer("n2", 0.0);
        spoil(&mut bad);
        assert_eq!(
            ask(&load(2.0), &jobs, &[bad.clone()]),
            Err(Idle::NoPeer),
            "{what}"
        );
        assert_eq!(
            ask(&load(2.0), &jobs, &[bad, peer("n3", 0.0)]),
            going("a", "n3"),
            "{what}"
        );
    }
}

#[test]
fn only_an_overloaded_node_decides() {
    let jobs = [job("a", 1000), job("b", 1000)];
    let peers = [peer("n2", 0.0)];
    assert!(matches!(
        ask(&load(1.4), &jobs, &peers),
        Err(Idle::NotOverloaded { .. })
    ));
    let mut wide = load(3.0);
    wide.cores = 4;
    assert!(matches!(
        ask(&wide, &jobs, &peers),
        Err(Idle::NotOverloaded { .. })
    ));
    wide.runnable = 6.0;
    assert_eq!(ask(&wide, &jobs, &peers), going("a", "n2"));
    assert!(matches!(
        ask(&load(f64::NAN), &jobs, &peers),
        Err(Idle::NotOverloaded { .. })
    ));
    assert_eq!(ask(&load(2.0), &jobs, &[]), Err(Idle::NoPeer));
    assert_eq!(ask(&load(2.0), &[], &peers), Err(Idle::NoJob));
}

#[test]
fn speed_counts_where_both_are_measured() {
    let jobs = [job("a", 1000), job("b", 1000)];
    let mut own = load(2.0);
    let mut fast = peer("n2", 1.0);
    own.speed = Some(1.0);
    fast.load.speed = Some(2.0);
    assert_eq!(ask(&own, &jobs, &[fast.clone()]), going("a", "n2"));
    own.speed = None;
    assert_eq!(ask(&own, &jobs, &[fast]), Err(Idle::NotWorthIt));
    let mut slow = peer("n2", 0.0);
    slow.load.speed = Some(0.25);
    own.speed = Some(1.0);
    assert_eq!(ask(&own, &jobs, &[slow]), Err(Idle::NotWorthIt));
}

#[test]
fn switched_off_it_decides_nothing() {
    let mut balancer = Balancer::new(Settings {
        enabled: false,
        ..Settings::default()
    });
    let jobs = [job("a", 1000), job("b", 1000)];
    let decisions = balancer.decide(NOW, &load(9.0), &jobs, &[peer("n2", 0.0)], &mut rng(1));
    assert_eq!((decisions, balancer.idle()), (vec![], Idle::Disabled));
}

#[test]
fn one_move_at_a_time_and_a_pause_after_it() {
    let mut balancer = Balancer::new(Settings::default());
    let mut jobs = vec![job("a", 90), job("b", 80), job("c", 70)];
    let peers = |at| {
        let mut peers = [peer("n2", 0.0), peer("n3", 0.0)];
        peers.iter_mut().for_each(|p| p.received_at = at);
        peers
    };
    let ask = |balancer: &mut Balancer, at, jobs: &[JobView]| {
        balancer
            .decide(at, &load(3.0), jobs, &peers(at), &mut rng(7))
            .len()
    };
    let second = Duration::from_secs(1);
    assert_eq!(ask(&mut balancer, NOW, &jobs), 1);
    assert_eq!(ask(&mut balancer, NOW + second, &jobs), 0);
    assert_eq!(balancer.idle(), Idle::Busy);
    jobs[0].running_moves = 1;
    assert_eq!(ask(&mut balancer, NOW + 100 * second, &jobs), 0);
    jobs.remove(0);
    balancer.finished(NOW + 100 * second, &id("a"), 1 << 20, second / 10);
    assert_eq!(ask(&mut balancer, NOW + 101 * second, &jobs), 0);
    assert_eq!(balancer.idle(), Idle::Settling);
    assert_eq!(ask(&mut balancer, NOW + 102 * second, &jobs), 1);
}

#[test]
fn an_offer_that_nobody_answers_is_forgotten() {
    let mut balancer = Balancer::new(Settings::default());
    let jobs = [job("a", 90), job("b", 80)];
    let mut at = NOW;
    let mut count = 0;
    for _ in 0..61 {
        let mut fresh = peer("n2", 0.0);
        fresh.received_at = at;
        count += balancer
            .decide(at, &load(2.0), &jobs, &[fresh], &mut rng(3))
            .len();
        at += Duration::from_secs(1);
    }
    assert_eq!(count, 3, "at 0, 30 and 60 s");
}

#[test]
fn a_refusal_sends_the_job_to_the_other_candidate() {
    let mut balancer = Balancer::new(Settings::default());
    let jobs = [job("a", 90), job("b", 80)];
    let peers = [peer("n2", 0.0), peer("n3", 0.0)];
    let first = balancer
        .decide(NOW, &load(2.0), &jobs, &peers, &mut rng(3))
        .remove(0);
    balancer.refused(NOW, &first.job, &Refusal::Full(1));
    let second = balancer
        .decide(NOW, &load(2.0), &jobs, &peers, &mut rng(3))
        .remove(0);
    assert_eq!(first.job, second.job);
    assert_eq!(first.reason.instead_of.as_ref(), Some(&second.to));
    balancer.refused(NOW, &second.job, &Refusal::Closed);
    assert!(
        balancer
            .decide(NOW, &load(2.0), &jobs, &peers, &mut rng(3))
            .is_empty()
    );
    assert_eq!(balancer.idle(), Idle::NoPeer);
}

#[test]
fn failures_are_retried_ever_more_rarely() {
    let mut balancer = Balancer::new(Settings::default());
    let jobs = [job("a", 90)];
    let mut tries = Vec::new();
    for second in 0..300 {
        let at = NOW + Duration::from_secs(second);
        let mut fresh = peer("n2", 0.0);
        fresh.received_at = at;
        for decision in balancer.decide(at, &load(2.0), &jobs, &[fresh], &mut rng(3)) {
            tries.push(second);
            balancer.failed(at, &decision.job);
        }
    }
    assert_eq!(tries, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
}

#[test]
fn several_outgoing_moves_go_to_different_nodes() {
    let mut balancer = Balancer::new(Settings {
        max_outgoing: 3,
        ..Settings::default()
    });
    let jobs: Vec<_> = (0..6).map(|n| job(&format!("j{n}"), 100 + n)).collect();
    let peers = [peer("n2", 0.0), peer("n3", 0.0)];
    let decisions = balancer.decide(NOW, &load(6.0), &jobs, &peers, &mut rng(5));
    let mut to: Vec<_> = decisions.iter().map(|d| d.to.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["n2", "n3"]);
}

#[test]
fn draws_spread_over_equal_peers() {
    let mut random = rng(11);
    let peers: Vec<_> = (0..8).map(|n| peer(&format!("n{n}"), 0.0)).collect();
    let mut hits = BTreeMap::new();
    for _ in 0..800 {
        let mut balancer = Balancer::new(Settings::default());
        let decisions = balancer.decide(NOW, &load(2.0), &[job("a", 90)], &peers, &mut random);
        *hits.entry(decisions[0].to.clone()).or_insert(0) += 1;
    }
    assert_eq!(hits.len(), 8);
    assert!(hits.values().all(|n| (50..200).contains(n)), "{hits:?}");
}

/// Whatever is asked, no decision breaks a rule.
#[test]
fn no_decision_ever_breaks_a_rule() {
    let mut random = rng(2026);
    let mut decided = 0;
    for round in 0..60_000 {
        let own = any_load(&mut random);
        let jobs: Vec<_> = (0..random() % 6).map(|n| any_job(n, &mut random)).collect();
        let peers: Vec<_> = (0..random() % 6)
            .map(|n| any_peer(n, &mut random))
            .collect();
        let settings = Settings {
            max_outgoing: usize::try_from(random() % 4).unwrap(),
            ..Settings::default()
        };
        let mut balancer = Balancer::new(settings.clone());
        let decisions = balancer.decide(NOW, &own, &jobs, &peers, &mut random);
        decided += decisions.len();
        assert!(decisions.len() <= settings.max_outgoing);
        let mut left = own.runnable;
        for (index, decision) in decisions.iter().enumerate() {
            check_rules(&own, left, &jobs, &peers, decision);
            left -= decision.reservation.runnable;
            let twice = decisions[..index]
                .iter()
                .any(|d| d.job == decision.job || d.to == decision.to);
            assert!(!twice, "round {round}: {decisions:?}");
        }
    }
    assert!(
        decided > 500,
        "the property was tested on {decided} decisions"
    );
}

fn check_rules(own: &Load, left: f64, jobs: &[JobView], peers: &[PeerView], decision: &Decision) {
    let job = jobs.iter().find(|job| job.id == decision.job).unwrap();
    let peer = peers.iter().find(|peer| peer.node == decision.to).unwrap();
    assert!(job.movable && !job.pinned && job.running_moves == 0);
    assert!(job.since_arrival >= Duration::from_secs(2));
    assert!(peer.load.accepts && peer.load.is_sane());
    assert!(peer.age(NOW) <= Duration::from_millis(3500));
    assert!(job.memory <= peer.load.memory_free);
    let reason = &decision.reason;
    assert!(reason.age * reason.gain > reason.cost, "{reason}");
    let (here, there) = speeds(own.speed, peer.load.speed);
    let before = left / f64::from(own.cores) / here;
    let after = peer.load.demand(reason.runnable) / f64::from(peer.load.cores) / there;
    assert!(after < before, "{after} there, {before} here: {decision:?}");
}

fn any_of<T: Copy>(list: &[T], random: &mut impl FnMut() -> u64) -> T {
    let len = u64::try_from(list.len()).unwrap();
    list[usize::try_from(random() % len).unwrap()]
}

fn any_load(random: &mut impl FnMut() -> u64) -> Load {
    Load {
        runnable: any_of(
            &[0.0, 0.0, 0.3, 1.0, 2.0, 2.5, 7.0, 40.0, f64::NAN, -1.0],
            random,
        ),
        cores: any_of(&[1, 1, 1, 1, 2, 2, 4, 64, 0], random),
        speed: any_of(
            &[None, None, None, Some(1.0), Some(2.0), Some(4.0), Some(0.0)],
            random,
        ),
        memory_free: any_of(&[0, 6 * GIB, 100 * GIB, 100 * GIB], random),
        memory_total: 100 * GIB,
        jobs: 1,
        incoming: any_of(&[0.0, 0.0, 1.0], random),
        accepts: any_of(&[true, true, false], random),
        age: Duration::from_millis(random() % 3000),
    }
}

fn any_job(n: u64, random: &mut impl FnMut() -> u64) -> JobView {
    JobView {
        id: id(&format!("j{n}")),
        cpu: Duration::from_millis(any_of(&[0, 100, 10_000, 100_000, 10_000_000], random)),
        runnable: any_of(&[0.0, 0.5, 1.0, 1.0, 8.0, f64::INFINITY], random),
        memory: any_of(&[0, 1 << 20, 1 << 24, GIB, 90 * GIB, u64::MAX], random),
        movable: any_of(&[true, true, true, false], random),
        pinned: any_of(&[false, false, false, true], random),
        since_arrival: Duration::from_millis(any_of(
            &[0, 1999, 2000, 9_000_000, 9_000_000],
            random,
        )),
        running_moves: u32::from(random().is_multiple_of(20)),
    }
}

fn any_peer(n: u64, random: &mut impl FnMut() -> u64) -> PeerView {
    PeerView {
        node: format!("n{n}").parse().unwrap(),
        load: any_load(random),
        received_at: NOW - Duration::from_millis(random() % 2000),
    }
}
