//! What only the engine on disk can show: crashes, a full disk, files that are not well.
