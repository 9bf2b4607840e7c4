//! The canonical path (rules PA1 to PA5 of the wire guard): made once, used by matching, rewriting and forwarding alike.
