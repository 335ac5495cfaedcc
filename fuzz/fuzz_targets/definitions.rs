//! Whatever bytes a definition file and its schema hold, the check comes back: no panic, no hang, no unbounded memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| warrend::definition::exercise(bytes));
