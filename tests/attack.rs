//! Attacks on the walls of a box, first without the wall, then with it.

mod net;
