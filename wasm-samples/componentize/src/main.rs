//! Wraps a core module, whose interface is described in its custom sections, into a component:
//! `componentize MODULE.wasm COMPONENT.wasm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, from, to] = args.as_slice() else {
        eprintln!("usage: componentize MODULE.wasm COMPONENT.wasm");
        return ExitCode::from(2);
    };
    match componentize(from, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("componentize: {from}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn componentize(from: &str, to: &str) -> Result<(), String> {
    let module = std::fs::read(from).map_err(|error| error.to_string())?;
    let component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))?;
    std::fs::write(to, component).map_err(|error| error.to_string())
}
