//! What `bindgen!` makes of the WIT in `src/runtime/wit`.

wasmtime::component::bindgen!({
    path: "src/runtime/wit",
    world: "coracle:runtime/network",
    imports: { default: trappable },
    trappable_error_type: {
        "wasi:sockets/network.error-code" => super::SocketError,
    },
    with: {
        "wasi:io": wasmtime_wasi_io::bindings::wasi::io,
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "wasi:sockets/network.network": super::Network,
        "wasi:sockets/tcp.tcp-socket": super::tcp::TcpSocket,
        "wasi:sockets/udp.udp-socket": super::udp::UdpSocket,
        "wasi:sockets/udp.incoming-datagram-stream": super::udp::IncomingDatagrams,
        "wasi:sockets/udp.outgoing-datagram-stream": super::udp::OutgoingDatagrams,
        "wasi:sockets/ip-name-lookup.resolve-address-stream": super::lookup::Addresses,
    },
    require_store_data_send: true,
});
