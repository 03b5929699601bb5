//! `wasi:sockets/ip-name-lookup`.

use std::net::IpAddr;

use wasmtime::component::Resource;
use wasmtime_wasi_io::poll::{DynPollable, Pollable};

use super::address::ip_to_wit;
use super::bindings::wasi::sockets::ip_name_lookup;
use super::bindings::wasi::sockets::network::{ErrorCode, IpAddress};
use super::{Awaited, Network, SocketResult, SocketsView, net_error, trap};
use crate::net::NetError;

/// The addresses of a name, or on their way.
pub struct Addresses(Awaited<Result<std::vec::IntoIter<IpAddr>, NetError>>);

#[async_trait::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {
        self.0.wait().await;
    }
}

impl ip_name_lookup::Host for SocketsView<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<Addresses>> {
        self.table.get(&network).map_err(trap)?;
        let namespace = self.ctx.namespace.clone();
        let resolver = namespace.clone();
        let mut addresses = Addresses(Awaited::start(&namespace, async move {
            resolver.resolve(&name).await.map(Vec::into_iter)
        }));
        if let Some(Err(error)) = addresses.0.get() {
            return Err(net_error(*error));
        }
        self.table.push(addresses).map_err(trap)
    }
}

impl ip_name_lookup::HostResolveAddressStream for SocketsView<'_> {
    fn resolve_next_address(
        &mut self,
        this: Resource<Addresses>,
    ) -> SocketResult<Option<IpAddress>> {
        match self.table.get_mut(&this).map_err(trap)?.0.get() {
            None => Err(ErrorCode::WouldBlock.into()),
            Some(Ok(addresses)) => Ok(addresses.next().map(ip_to_wit)),
            Some(Err(error)) => Err(net_error(*error)),
        }
    }

    fn subscribe(&mut self, this: Resource<Addresses>) -> wasmtime::Result<Resource<DynPollable>> {
        wasmtime_wasi_io::poll::subscribe(self.table, this)
    }

    fn drop(&mut self, this: Resource<Addresses>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
