//! How many instances a machine bears. Pure arithmetic on what the machine says of itself.

/// Below this a pool is not worth its address space.
pub const SLOTS_MIN: u32 = 16;

/// More than this is never asked for.
pub const SLOTS_MAX: u32 = 10_000;

/// Maps of the process that are no instance's: libraries, heaps, threads, everybody else's.
const MAPS_RESERVED: u64 = 15_000;

/// Maps that a loaded component costs.
const MAPS_PER_LOADED: u64 = 3;

/// A slot costs two maps, a live instance in it four more.
const MAPS_PER_SLOT: u64 = 6;

/// Memory that one more live instance is taken to need.
const BYTES_PER_SLOT: u64 = 2 << 20;

/// What the machine says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    pub memory_bytes: u64,
    /// `vm.max_map_count`, where there is such a limit.
    pub maps_max: Option<u64>,
}

/// Slots of the pool, of which instances may use all; `None` where a pool makes no sense.
pub fn slots(machine: Machine, loaded_max: usize, asked: Option<u32>) -> Option<u32> {
    // Half of the memory: the rest is the guests' growth, and the node's own.
    let by_memory = machine.memory_bytes / 2 / BYTES_PER_SLOT;
    let by_maps = machine.maps_max.map_or(u64::MAX, |maps| {
        let taken = MAPS_RESERVED + MAPS_PER_LOADED * loaded_max as u64;
        maps.saturating_sub(taken) / MAPS_PER_SLOT
    });
    let most = by_memory.min(by_maps).min(u64::from(SLOTS_MAX));
    let most = most.min(u64::from(asked.unwrap_or(u32::MAX)));
    u32::try_from(most).ok().filter(|slots| *slots >= SLOTS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_thing_decides() {
        let machine =
            |memory_gib: u64, maps| Machine { memory_bytes: memory_gib << 30, maps_max: maps };
        assert_eq!(slots(machine(64, Some(65_530)), 2500, None), Some(7171), "maps");
        assert_eq!(slots(machine(4, Some(65_530)), 2500, None), Some(1024), "memory");
        assert_eq!(slots(machine(64, None), 2500, None), Some(SLOTS_MAX), "the ceiling");
        assert_eq!(slots(machine(64, None), 2500, Some(64)), Some(64), "the node's wish");
        assert_eq!(slots(machine(64, Some(20_000)), 2500, None), None, "nothing left");
    }
}
