//! The one binary: parse the command line, start tracing, hand over to [`coracle::cli`].

fn main() -> std::process::ExitCode {
    coracle::cli::main()
}
