//! A busy loop that never ends and never asks the host for anything: the worst neighbour.

struct Spin;

wasip2::cli::command::export!(Spin);

impl wasip2::exports::cli::run::Guest for Spin {
    fn run() -> Result<(), ()> {
        kit::print("spinning\n");
        let mut x: u64 = 1;
        loop {
            x = core::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}
