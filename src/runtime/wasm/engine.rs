//! The engines of a node.
//!
//! Two, with one compiled form: a *pool*, whose slots are reserved at the start and reset after
//! each use, and an *on-demand* engine for what does not fit a slot, or for all where the
//! reservation fails. Linear memories reserve 4 GiB of addresses, so that bounds need no checks
//! and a slot never limits growth; where there are not that many addresses (39-bit machines,
//! `ulimit -v`), [`AddressSpace::Narrow`] reserves little and checks.
//!
//! **Invariant:** what one engine of a [`Engines`] compiled or loads, the other loads too.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use super::plan::{self, Machine};
use super::ticker::Ticker;
use crate::runtime::config::RuntimeConfig;
use crate::runtime::error::RuntimeError;

/// How many addresses a linear memory may reserve. Part of what compiled code relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressSpace {
    Wide,
    Narrow,
}

/// Bytes that stay resident in a slot between two uses, so that the next finds them mapped.
const KEEP_RESIDENT: usize = 256 << 10;
const TABLE_KEEP_RESIDENT: usize = 16 << 10;
const STACK_KEEP_RESIDENT: usize = 16 << 10;

/// Slots that keep their last module's image while nobody uses them.
const WARM_SLOTS: u32 = 128;

/// More than wasmtime's 20,000: big interpreters have more functions in their table.
const TABLE_ELEMENTS: usize = 100_000;

/// The engines of a node.
pub struct Engines {
    pub pool: Option<Engine>,
    pub on_demand: Engine,
    /// Instances at once.
    pub slots: u32,
    pub address_space: AddressSpace,
    pub ticker: Ticker,
    /// Changes with everything that compiled code relies on.
    pub compatibility: String,
}

impl Engines {
    /// Engines as large as the machine bears.
    ///
    /// # Errors
    /// When not even the smallest starts.
    pub fn new(config: &RuntimeConfig) -> Result<Self, RuntimeError> {
        let wanted = plan::slots(machine(), config.loaded_max, config.instances_max);
        let (pool, slots) = wanted.and_then(largest_pool).unzip();
        let address_space = match pool {
            Some(_) => AddressSpace::Wide,
            None if compile_engine(AddressSpace::Wide).is_ok() && addresses_are_plenty() => {
                AddressSpace::Wide
            }
            None => AddressSpace::Narrow,
        };
        let on_demand =
            compile_engine(address_space).map_err(|e| RuntimeError::Engine(format!("{e:#}")))?;
        let compatibility = compatibility(&on_demand);
        debug_assert!(pool.as_ref().is_none_or(|pool| self::compatibility(pool) == compatibility));
        let slots = slots.unwrap_or_else(|| config.instances_max.unwrap_or(256).min(256));
        info!(slots, pooled = pool.is_some(), ?address_space, "wasm engine ready");
        let engines: Vec<Engine> = pool.iter().chain([&on_demand]).cloned().collect();
        let ticker = Ticker::start(&engines).map_err(RuntimeError::Threads)?;
        Ok(Self { pool, on_demand, slots, address_space, ticker, compatibility })
    }
}

/// The engine that compiles, and that runs on demand.
pub fn compile_engine(address_space: AddressSpace) -> wasmtime::Result<Engine> {
    Engine::new(&base(address_space))
}

fn base(address_space: AddressSpace) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true).wasm_backtrace_details(WasmBacktraceDetails::Disable);
    if address_space == AddressSpace::Narrow {
        config.memory_reservation(16 << 20).memory_guard_size(64 << 10);
    }
    config
}

fn pooled(slots: u32) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    // A component is three core instances and two tables: its own, and those of the adapter code
    // between it and the host.
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(4))
        .total_memories(slots)
        .total_tables(slots.saturating_mul(3))
        .total_stacks(slots)
        .total_gc_heaps(slots.min(256))
        .table_elements(TABLE_ELEMENTS)
        .max_unused_warm_slots(WARM_SLOTS)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        .async_stack_keep_resident(STACK_KEEP_RESIDENT)
        .pagemap_scan(Enabled::Auto);
    let mut config = base(AddressSpace::Wide);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

fn largest_pool(wanted: u32) -> Option<(Engine, u32)> {
    let mut slots = wanted;
    while slots >= plan::SLOTS_MIN {
        match pooled(slots) {
            Ok(engine) => return Some((engine, slots)),
            Err(error) => warn!(slots, error = %format!("{error:#}"), "wasm pool does not fit"),
        }
        slots /= 2;
    }
    None
}

fn compatibility(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Whether a few hundred memories of 4 GiB can be reserved.
fn addresses_are_plenty() -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    cfg!(target_pointer_width = "64") && limit.is_none_or(|bytes| bytes > 1 << 42)
}

fn machine() -> Machine {
    let info = rustix::system::sysinfo();
    let memory_bytes = info.totalram as u64 * u64::from(info.mem_unit);
    let maps_max = std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Machine { memory_bytes, maps_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_on_demand_fits_the_pool() {
        let pool = pooled(plan::SLOTS_MIN).expect("a small pool fits everywhere");
        let on_demand = compile_engine(AddressSpace::Wide).expect("an engine");
        let narrow = compile_engine(AddressSpace::Narrow).expect("an engine");
        assert_eq!(compatibility(&pool), compatibility(&on_demand));
        assert_ne!(compatibility(&pool), compatibility(&narrow));
    }
}
