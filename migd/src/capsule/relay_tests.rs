//! Two links and a carrier that breaks wherever it can.

use super::*;

/// A small generator of reproducible choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Bytes on their way, each direction.
#[derive(Default)]
struct Carrier {
    forth: Vec<u8>,
    back: Vec<u8>,
}

fn pump(from: &mut Link, to: &mut Link, on_way: &mut Vec<u8>, dice: &mut Dice) {
    let length = from.output().len();
    let taken = dice.roll(length + 1);
    on_way.extend_from_slice(&from.output()[..taken]);
    from.sent(taken);
    let arrives = dice.roll(on_way.len() + 1);
    to.feed(&on_way[..arrives]).unwrap();
    on_way.drain(..arrives);
}

fn reconnect(a: &mut Link, b: &mut Link) -> Carrier {
    a.disconnect();
    b.disconnect();
    a.connect();
    b.connect();
    Carrier::default()
}

#[test]
fn nothing_is_lost_doubled_or_reordered_wherever_the_carrier_breaks() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let (mut home, mut away) = (Link::new(1), Link::new(1));
        let mut carrier = reconnect(&mut home, &mut away);
        let text: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        let (mut written, mut read, mut signals) = (0, Vec::new(), 0);
        let mut heard = Vec::new();
        while read.len() < text.len() || heard.len() < 20 || !away.at_end(Stream::In) {
            if written < text.len() {
                let n = dice
                    .roll(3000)
                    .min(text.len() - written)
                    .min(home.room(Stream::In));
                home.send(Stream::In, &text[written..written + n]);
                written += n;
            } else {
                home.end(Stream::In);
            }
            if signals < 20 && dice.roll(3) == 0 {
                signals += 1;
                home.say(Control::Signal(signals));
            }
            pump(&mut home, &mut away, &mut carrier.forth, &mut dice);
            pump(&mut away, &mut home, &mut carrier.back, &mut dice);
            let n = dice.roll(away.waiting(Stream::In) + 1);
            read.extend_from_slice(&away.arrived(Stream::In)[..n]);
            away.consume(Stream::In, n);
            while let Some(control) = away.event() {
                heard.push(control);
            }
            if dice.roll(20) == 0 {
                carrier = reconnect(&mut home, &mut away);
            }
        }
        assert_eq!(read, text, "seed {seed}");
        let expected: Vec<_> = (1..=20).map(Control::Signal).collect();
        assert_eq!(heard, expected, "seed {seed}");
    }
}

/// Every byte position of a short conversation is a place to break at.
#[test]
fn a_break_at_every_byte_is_survived() {
    let talk = |cut: usize| {
        let (mut a, mut b) = (Link::new(1), Link::new(1));
        a.send(Stream::Terminal, b"hello");
        a.say(Control::Window([1, 2, 3, 4]));
        a.end(Stream::In);
        a.connect();
        b.connect();
        let hello = b.output().to_vec();
        b.sent(hello.len());
        a.feed(&hello).unwrap();
        let all = a.output().to_vec();
        let cut = cut.min(all.len());
        a.sent(cut);
        b.feed(&all[..cut]).unwrap();
        settle(&mut a, &mut b).unwrap();
        assert_eq!(b.arrived(Stream::Terminal), b"hello");
        assert_eq!(b.event(), Some(Control::Window([1, 2, 3, 4])));
        assert_eq!(b.event(), None);
        assert!(b.at_end(Stream::In) && a.is_settled());
        all.len()
    };
    let length = talk(0);
    for cut in 1..=length {
        talk(cut);
    }
}

/// As the inits do: whatever comes, each looks whether there is something to take.
#[test]
fn two_sides_that_have_nothing_to_say_are_silent() {
    let (mut home, mut away) = (Link::new(1), Link::new(1));
    reconnect(&mut home, &mut away);
    away.send(Stream::Out, b"tick");
    let mut rounds = 0;
    while home.has_output() || away.has_output() {
        for (from, to) in [(0, 1), (1, 0)] {
            let sides = [&mut home, &mut away];
            let bytes = sides[from].output().to_vec();
            sides[from].sent(bytes.len());
            sides[to].feed(&bytes).unwrap();
            for stream in [Stream::Terminal, Stream::In, Stream::Out, Stream::Err] {
                let waiting = sides[to].waiting(stream);
                sides[to].consume(stream, waiting);
            }
        }
        rounds += 1;
        assert!(rounds < 10, "they talk for ever");
    }
}

#[test]
fn credit_stops_a_fast_writer_and_comes_back_with_the_reader() {
    let (mut a, mut b) = (Link::new(1), Link::new(1));
    let all = vec![1; a.room(Stream::Out)];
    a.send(Stream::Out, &all);
    assert_eq!(a.room(Stream::Out), 0);
    settle(&mut a, &mut b).unwrap();
    assert_eq!(a.room(Stream::Out), 0, "arrived is not yet taken");
    b.consume(Stream::Out, 1000);
    settle(&mut a, &mut b).unwrap();
    assert_eq!(a.room(Stream::Out), 1000);
    assert_eq!(a.room(Stream::Err), all.len(), "the other streams flow");
}

#[test]
fn bytes_put_back_give_no_credit_twice() {
    let (mut a, mut b) = (Link::new(1), Link::new(1));
    a.send(Stream::In, b"abcdef");
    settle(&mut a, &mut b).unwrap();
    b.consume(Stream::In, 4);
    b.put_back(Stream::In, b"cd");
    assert_eq!(b.arrived(Stream::In), b"cdef");
    b.consume(Stream::In, 4);
    settle(&mut a, &mut b).unwrap();
    assert_eq!(a.room(Stream::In) as u64, WINDOW);
}

#[test]
fn a_link_goes_on_where_it_was_written_down() {
    let (mut home, mut second) = (Link::new(1), Link::new(1));
    home.send(Stream::In, b"one ");
    second.send(Stream::Out, b"output");
    settle(&mut home, &mut second).unwrap();
    home.send(Stream::In, b"two");
    second.say(Control::Stopped(20));
    let bytes = postcard::to_stdvec(&second).unwrap();
    let mut third: Link = postcard::from_bytes(&bytes).unwrap();
    third.set_epoch(2, true);
    settle(&mut home, &mut third).unwrap();
    assert_eq!(third.arrived(Stream::In), b"one two");
    assert_eq!(home.arrived(Stream::Out), b"output");
    assert_eq!(home.event(), Some(Control::Stopped(20)));
    second.connect();
    let hello = second.output().to_vec();
    home.connect();
    assert_eq!(
        home.feed(&hello),
        Err(LinkError::Stale { theirs: 1, ours: 2 })
    );
}

#[test]
fn without_a_carrier_the_log_stays_bounded() {
    let mut link = Link::new(1);
    for i in 0..10_000 {
        link.say(Control::Signal(15));
        link.say(Control::Hangup);
        link.say(Control::Window([i, 0, 0, 0]));
    }
    assert!(link.log.len() <= 3, "{}", link.log.len());
}

#[test]
fn hostile_bytes_are_errors_and_leave_the_state_sound() {
    let mut link = Link::new(1);
    link.connect();
    assert_eq!(
        link.feed(&u32::MAX.to_le_bytes()),
        Err(LinkError::TooLong(u32::MAX as usize))
    );
    link.connect();
    assert_eq!(link.feed(&[1, 0, 0, 0, 99]), Err(LinkError::Malformed));
    link.connect();
    let mut bytes = Vec::new();
    push(
        &Message::Item {
            number: 7,
            item: Item::End(Stream::In),
        },
        &mut bytes,
    );
    assert_eq!(
        link.feed(&bytes),
        Err(LinkError::Order {
            expected: 1,
            got: 7
        })
    );
    link.connect();
    let mut bytes = Vec::new();
    push(
        &Message::Progress(Progress {
            received: 5,
            consumed: [0; 4],
        }),
        &mut bytes,
    );
    assert_eq!(link.feed(&bytes), Err(LinkError::Acknowledged(5)));
    let mut dice = Dice(9);
    for _ in 0..2000 {
        link.connect();
        let noise: Vec<u8> = (0..40)
            .map(|_| u8::try_from(dice.roll(6)).unwrap())
            .collect();
        drop(link.feed(&noise));
    }
    let mut other = Link::new(1);
    let mut fresh = Link::new(1);
    settle(&mut fresh, &mut other).unwrap();
}
