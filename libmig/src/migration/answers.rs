//! What the source waits for, out of all that the destination may say.

use crate::transfer::Message;

pub(super) fn accepted(message: Message) -> Result<(), Message> {
    match message {
        Message::Accepted => Ok(()),
        other => Err(other),
    }
}

pub(super) fn pong(message: Message) -> Result<(), Message> {
    match message {
        Message::Pong => Ok(()),
        other => Err(other),
    }
}

pub(super) fn drafted(message: Message) -> Result<bool, Message> {
    match message {
        Message::Drafted { ready } => Ok(ready),
        other => Err(other),
    }
}

pub(super) fn in_place(message: Message) -> Result<(), Message> {
    match message {
        Message::InPlace => Ok(()),
        other => Err(other),
    }
}

pub(super) fn built(message: Message) -> Result<bool, Message> {
    match message {
        Message::Built { waits, .. } => Ok(waits),
        other => Err(other),
    }
}

pub(super) fn owned(message: Message) -> Result<(), Message> {
    match message {
        Message::Owned => Ok(()),
        other => Err(other),
    }
}

pub(super) fn taken(message: Message) -> Result<(), Message> {
    match message {
        Message::Taken => Ok(()),
        other => Err(other),
    }
}

pub(super) fn released(message: Message) -> Result<Vec<String>, Message> {
    match message {
        Message::Released { lost_locks } => Ok(lost_locks),
        other => Err(other),
    }
}
