//! Whole clusters over simulated time: nodes with their meters, balancers and
//! inflows, gossip that arrives late, moves that take time. Asserts that jobs
//! spread, that a cluster comes to rest, and that a herd is turned away.

use std::{collections::BTreeMap, time::Duration};

use super::{Balancer, Inflow, JobView, Load, LoadMeter, PeerView, Settings};
use crate::api::{JobId, NodeName};

const TICK: Duration = Duration::from_millis(250);
const GIB: u64 = 1 << 30;

struct Node {
    name: NodeName,
    cores: u32,
    meter: LoadMeter,
    balancer: Balancer,
    inflow: Inflow,
    heard: BTreeMap<usize, PeerView>,
    /// When within its second it sends and decides.
    phase: u32,
}

struct Job {
    at: usize,
    cpu: Duration,
    arrived: Duration,
    /// Destination and end of the move that is going on.
    moving: Option<(usize, Duration, Duration)>,
    /// It is runnable in this share of the ticks, in thousandths.
    busy: u64,
}

struct Sim {
    now: Duration,
    nodes: Vec<Node>,
    jobs: Vec<Job>,
    /// Loads on their way: due, to, from, load.
    mail: Vec<(Duration, usize, usize, Load)>,
    random: u64,
    moves: Vec<(Duration, usize, usize)>,
    refusals: usize,
}

/// The job with this index.
fn id(index: usize) -> JobId {
    JobId {
        home: "home".parse().unwrap(),
        number: u64::try_from(index).unwrap(),
    }
}

impl Sim {
    fn new(cores: &[u32], jobs: &[(usize, u64)], seed: u64) -> Self {
        let mut sim = Self {
            now: Duration::ZERO,
            nodes: Vec::new(),
            jobs: Vec::new(),
            mail: Vec::new(),
            random: seed,
            moves: Vec::new(),
            refusals: 0,
        };
        for (index, cores) in cores.iter().enumerate() {
            let phase = u32::try_from(sim.next() % 4).unwrap();
            sim.nodes.push(Node {
                name: format!("n{index}").parse().unwrap(),
                cores: *cores,
                meter: LoadMeter::new(),
                balancer: Balancer::new(Settings::default()),
                inflow: Inflow::new(),
                heard: BTreeMap::new(),
                phase,
            });
        }
        sim.jobs.extend(jobs.iter().map(|(at, busy)| Job {
            at: *at,
            cpu: Duration::ZERO,
            arrived: Duration::ZERO,
            moving: None,
            busy: *busy,
        }));
        sim
    }

    fn next(&mut self) -> u64 {
        // xorshift64*: enough to shake a simulation.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        let mut tick = 0_u32;
        while self.now < end {
            self.now += TICK;
            tick += 1;
            self.compute();
            self.end_moves();
            self.deliver();
            for node in 0..self.nodes.len() {
                if (tick + self.nodes[node].phase).is_multiple_of(4) {
                    self.gossip(node);
                    self.decide(node);
                }
            }
        }
    }

    /// Every job on a node gets its share of the CPUs; the meters see the queue.
    fn compute(&mut self) {
        let awake: Vec<bool> = (0..self.jobs.len())
            .map(|job| self.next() % 1000 < self.jobs[job].busy)
            .collect();
        for node in 0..self.nodes.len() {
            let here = |(index, job): &(usize, &mut Job)| job.at == node && awake[*index];
            let running: Vec<_> = self.jobs.iter_mut().enumerate().filter(here).collect();
            let count = u32::try_from(running.len()).unwrap();
            let share = (f64::from(self.nodes[node].cores) / f64::from(count.max(1))).min(1.0);
            for (_, job) in running {
                job.cpu += TICK.mul_f64(share);
            }
            self.nodes[node].meter.sample(self.now, f64::from(count));
        }
    }

    fn end_moves(&mut self) {
        for index in 0..self.jobs.len() {
            let job = &mut self.jobs[index];
            let Some((to, began, ends)) = job.moving.filter(|(_, _, ends)| *ends <= self.now)
            else {
                continue;
            };
            let from = std::mem::replace(&mut job.at, to);
            job.moving = None;
            job.arrived = self.now;
            let name = id(index);
            let source = &mut self.nodes[from].balancer;
            source.finished(self.now, &name, 64 << 20, ends - began);
            let settings = source.settings().clone();
            self.nodes[to].inflow.arrived(self.now, &settings, &name);
            self.moves.push((self.now, from, to));
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.mail)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.mail = later;
        let due: Vec<(Duration, usize, usize, Load)> = due;
        for (_, to, from, load) in due {
            let view = PeerView {
                node: self.nodes[from].name.clone(),
                load,
                received_at: now,
            };
            self.nodes[to].heard.insert(from, view);
        }
    }

    fn load(&mut self, node: usize) -> Load {
        let jobs = self.jobs.iter().filter(|job| job.at == node).count();
        let now = self.now;
        let node = &mut self.nodes[node];
        Load {
            runnable: node.meter.exported(),
            cores: node.cores,
            speed: None,
            memory_free: 8 * GIB,
            memory_total: 16 * GIB,
            jobs: u32::try_from(jobs).unwrap(),
            incoming: node.inflow.runnable(now),
            accepts: true,
            age: node.meter.age(now),
        }
    }

    /// Up to 0.8 s late, and now and then not at all.
    fn gossip(&mut self, from: usize) {
        let load = self.load(from);
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            let late = Duration::from_millis(self.next() % 800);
            if !self.next().is_multiple_of(20) {
                self.mail.push((self.now + late, to, from, load.clone()));
            }
        }
    }

    fn decide(&mut self, from: usize) {
        let mut own = self.load(from);
        own.runnable = self.nodes[from].meter.local();
        let jobs = self.views(from);
        let peers: Vec<_> = self.nodes[from].heard.values().cloned().collect();
        let mut state = self.next();
        let mut rng = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 20
        };
        let now = self.now;
        let decisions = self.nodes[from]
            .balancer
            .decide(now, &own, &jobs, &peers, &mut rng);
        for decision in decisions {
            let to = self
                .nodes
                .iter()
                .position(|n| n.name == decision.to)
                .unwrap();
            let theirs = self.load(to);
            let settings = self.nodes[to].balancer.settings().clone();
            let inflow = &mut self.nodes[to].inflow;
            match inflow.reserve(now, &settings, &theirs, &decision.reservation) {
                Ok(()) => {
                    let job: usize = usize::try_from(decision.job.number).unwrap();
                    let takes = Duration::from_millis(100 + self.next() % 1900);
                    self.jobs[job].moving = Some((to, now, now + takes));
                }
                Err(why) => {
                    self.refusals += 1;
                    self.nodes[from].balancer.refused(now, &decision.job, &why);
                }
            }
        }
    }

    fn views(&self, node: usize) -> Vec<JobView> {
        let here = |(_, job): &(usize, &Job)| job.at == node;
        let view = |(index, job): (usize, &Job)| JobView {
            id: id(index),
            cpu: job.cpu,
            runnable: f64::from(u32::try_from(job.busy).unwrap()) / 1000.0,
            memory: 64 << 20,
            movable: true,
            pinned: false,
            since_arrival: self.now - job.arrived,
            running_moves: u32::from(job.moving.is_some()),
        };
        self.jobs
            .iter()
            .enumerate()
            .filter(here)
            .map(view)
            .collect()
    }

    fn spread(&self) -> Vec<usize> {
        let on = |node| self.jobs.iter().filter(|job| job.at == node).count();
        (0..self.nodes.len()).map(on).collect()
    }

    fn sorted_spread(&self) -> Vec<usize> {
        let mut spread = self.spread();
        spread.sort_unstable();
        spread
    }
}

#[test]
fn four_busy_jobs_spread_over_three_nodes_and_rest() {
    for seed in 1..=20 {
        let mut sim = Sim::new(&[1, 1, 1], &[(0, 1000); 4], seed);
        sim.run(15);
        assert_eq!(
            sim.sorted_spread(),
            [1, 1, 2],
            "seed {seed}: {:?}",
            sim.moves
        );
        assert_eq!(sim.moves.len(), 2, "seed {seed}: {:?}", sim.moves);
        sim.run(3600);
        assert_eq!(sim.moves.len(), 2, "seed {seed} thrashes: {:?}", sim.moves);
    }
}

#[test]
fn as_many_jobs_as_cores_are_left_alone() {
    for seed in 1..=20 {
        let mut sim = Sim::new(&[2, 2], &[(0, 1000), (0, 1000), (1, 1000)], seed);
        sim.run(600);
        assert!(sim.moves.is_empty(), "seed {seed}: {:?}", sim.moves);
    }
}

#[test]
fn one_idle_node_is_not_flooded_by_twenty() {
    for seed in 1..=5 {
        let jobs: Vec<_> = (0..40).map(|n| (1 + n / 2, 1000)).collect();
        let mut sim = Sim::new(&[1; 21], &jobs, seed);
        sim.run(300);
        // One job makes it 1 against 2; a second would make it 2 against 2.
        assert_eq!(sim.spread()[0], 1, "seed {seed}: {:?}", sim.moves);
        assert_eq!(sim.moves.len(), 1, "seed {seed}: {:?}", sim.moves);
        assert!(sim.refusals < 200, "seed {seed}: {} refusals", sim.refusals);
    }
}

#[test]
fn a_large_idle_node_fills_up_but_no_further() {
    for seed in 1..=2 {
        let jobs: Vec<_> = (0..60).map(|n| (1 + n / 3, 1000)).collect();
        let mut cores = [1; 21];
        cores[0] = 16;
        let mut sim = Sim::new(&cores, &jobs, seed);
        sim.run(600);
        let there = sim.spread()[0];
        assert!(
            (16..=48).contains(&there),
            "seed {seed}: {:?}",
            sim.spread()
        );
        let before = sim.moves.len();
        sim.run(600);
        let later = &sim.moves[before..];
        assert!(later.len() <= 2, "seed {seed} does not rest: {later:?}");
    }
}

#[test]
fn forty_nodes_with_uneven_work_come_to_rest() {
    for seed in 1..=2 {
        let jobs: Vec<_> = (0..90).map(|n| (n % 7, 1000)).collect();
        let mut sim = Sim::new(&[1; 40], &jobs, seed);
        sim.run(300);
        let spread = sim.sorted_spread();
        assert!(spread[39] - spread[0] <= 1, "seed {seed}: {spread:?}");
        let moves = sim.moves.len();
        sim.run(600);
        assert_eq!(sim.moves.len(), moves, "seed {seed} thrashes");
    }
}

#[test]
fn jobs_that_sleep_half_of_the_time_do_not_make_a_cluster_thrash() {
    for seed in 1..=3 {
        let jobs: Vec<_> = (0..24).map(|n| (n % 4, 500)).collect();
        let mut sim = Sim::new(&[1; 12], &jobs, seed);
        sim.run(3600);
        let moves = sim.moves.len();
        // 12 of 24 suffice; noise may add some, but not one a minute.
        assert!((8..60).contains(&moves), "seed {seed}: {moves} moves");
    }
}
