//! Upper bounds, checked before anything is allocated.

/// Longest control message in bytes: offers, refusals, acknowledgments.
pub const MESSAGE: u32 = 1 << 20;

/// Longest image in bytes. 65,530 mappings (vm.max_map_count) of 200 bytes in
/// each of a hundred processes would still be a refusal, by name, at the source.
pub const IMAGE: u32 = 256 << 20;

/// Longest run of bulk bytes in one frame.
pub const BULK: u32 = 1 << 20;
