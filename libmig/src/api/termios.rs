//! Terminal modes as they travel: struct termios2 of x86_64, 44 bytes.

use rustix::termios::{
    ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex as Code, Termios,
};

/// Length of struct termios2.
pub const LENGTH: usize = 44;

/// The special characters by index in c_cc; the kernel has 19, uses 17.
const CODES: [Code; 17] = [
    Code::VINTR,
    Code::VQUIT,
    Code::VERASE,
    Code::VKILL,
    Code::VEOF,
    Code::VTIME,
    Code::VMIN,
    Code::VSWTC,
    Code::VSTART,
    Code::VSTOP,
    Code::VSUSP,
    Code::VEOL,
    Code::VREPRINT,
    Code::VDISCARD,
    Code::VWERASE,
    Code::VLNEXT,
    Code::VEOL2,
];

/// The modes as bytes.
#[must_use]
pub fn to_bytes(modes: &Termios) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH);
    for word in [
        modes.input_modes.bits(),
        modes.output_modes.bits(),
        modes.control_modes.bits(),
        modes.local_modes.bits(),
    ] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.push(modes.line_discipline);
    bytes.extend(CODES.map(|code| modes.special_codes[code]));
    bytes.extend([0, 0]);
    bytes.extend(modes.input_speed().to_ne_bytes());
    bytes.extend(modes.output_speed().to_ne_bytes());
    bytes
}

/// Puts modes that [`to_bytes`] made into `modes`; `None` when they are not
/// [`LENGTH`] bytes. The line discipline and the speeds stay: a pty has only one of each.
pub fn apply(bytes: &[u8], modes: &mut Termios) -> Option<()> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    modes.input_modes = InputModes::from_bits_retain(word(0)?);
    modes.output_modes = OutputModes::from_bits_retain(word(4)?);
    let speed = ControlModes::from_bits_retain(0o10_017);
    modes.control_modes =
        (modes.control_modes & speed) | (ControlModes::from_bits_retain(word(8)?) - speed);
    modes.local_modes = LocalModes::from_bits_retain(word(12)?);
    for (code, &byte) in CODES.into_iter().zip(&bytes[17..]) {
        modes.special_codes[code] = byte;
    }
    Some(())
}

/// The modes as a shell sets them for the program that it puts in the foreground, whatever
/// its line editor has made of them: lines, echo and signals are on; the characters stay,
/// but for VLNEXT, which editors take away (`stty sane` gives it this value).
#[must_use]
pub fn cooked(mut modes: Termios) -> Termios {
    modes.input_modes |= InputModes::ICRNL | InputModes::IXON;
    modes.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
    modes.local_modes |= LocalModes::ISIG
        | LocalModes::ICANON
        | LocalModes::IEXTEN
        | LocalModes::ECHO
        | LocalModes::ECHOE
        | LocalModes::ECHOK
        | LocalModes::ECHOCTL
        | LocalModes::ECHOKE;
    if modes.special_codes[Code::VLNEXT] == 0 {
        modes.special_codes[Code::VLNEXT] = 0x16;
    }
    modes
}

#[cfg(test)]
mod tests {
    use rustix::{
        pty::{OpenptFlags, openpt},
        termios::{OptionalActions, tcgetattr, tcsetattr},
    };

    use super::*;

    #[test]
    fn modes_come_back_as_they_were() {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let mut modes = tcgetattr(&pty).unwrap();
        let first = to_bytes(&modes);
        assert_eq!(first.len(), LENGTH);
        modes.make_raw();
        modes.special_codes[Code::VINTR] = 7;
        tcsetattr(&pty, OptionalActions::Now, &modes).unwrap();
        let raw = to_bytes(&tcgetattr(&pty).unwrap());
        assert_ne!(raw, first);
        let mut modes = tcgetattr(&pty).unwrap();
        apply(&first, &mut modes).unwrap();
        tcsetattr(&pty, OptionalActions::Now, &modes).unwrap();
        assert_eq!(to_bytes(&tcgetattr(&pty).unwrap()), first);
        assert!(apply(&first[1..], &mut modes).is_none());
    }

    #[test]
    fn what_a_line_editor_changed_is_cooked_again() {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let fresh = tcgetattr(&pty).unwrap();
        let mut edited = fresh.clone();
        edited.input_modes -= InputModes::ICRNL | InputModes::IXON;
        edited.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
        edited.special_codes[Code::VLNEXT] = 0;
        assert_eq!(to_bytes(&cooked(edited)), to_bytes(&fresh));
    }
}
