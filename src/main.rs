//! The one binary: parse the command line, start tracing, hand over to [`coracle::cli`].

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    coracle::cli::main()
}
