//! One volume file: reserving room, writing records, and sharing syncs.
//!
//! Writers reserve their room one after another and then write at the same time. Whoever needs durability asks
//! [`Volume::sync_up_to`]: one sync runs at a time and covers every write that was finished before it began, so that
//! writers who come during a sync share the next one.
//!
//! Invariants:
//! - a payload is written before its header: a record with a valid header that lacks bytes can only come from a crash
//!   of the machine, and lies at or above the header's `synced_below`;
//! - `synced_below` never passes a record that is still being written or whose header may be torn;
//! - after a failed sync the volume is fenced: no write of it is acknowledged any more (the kernel may have dropped the
//!   pages, and the next sync would say that all is well). Records that earlier syncs covered stay readable.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use platform::{Disk, File, Platform};

use crate::volume::record::{
    ALIGN, HEADER_BYTES, MARK_AT, RecordHeader, TOUCH_AT, VolumeHeader, dead_mark, encode_touch,
    record_bytes,
};
use crate::volume::{BlockError, DIR};

/// A volume that is open.
#[derive(Debug)]
pub struct Volume {
    pub(super) header: VolumeHeader,
    pub(super) file: Arc<dyn File>,
    state: Mutex<State>,
    /// Orders those who wait for a sync; held while waiting, which is its purpose.
    turn: tokio::sync::Mutex<()>,
    /// Held by the sync itself, which goes on when its caller is gone.
    syncing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    tail: u64,
    in_flight: BTreeSet<u64>,
    /// Records that are not in the index (yet).
    unlisted: BTreeSet<u64>,
    touch: u64,
    finished: u64,
    synced: u64,
    synced_below: u64,
    live_records: u64,
    live_bytes: u64,
    sealed: bool,
    fenced: Option<String>,
}

/// Room for one record.
#[derive(Debug)]
pub struct Reservation {
    /// Where the record starts.
    pub offset: u64,
    /// For its header.
    pub synced_below: u64,
}

/// How many writes a sync must cover for a given one to be durable.
#[derive(Debug, Clone, Copy)]
pub struct Ticket(u64);

impl Volume {
    /// The path of the volume with a number.
    pub fn path(number: u32) -> String {
        format!("{DIR}/vol-{number:08x}")
    }

    /// Makes an empty volume whose header and name are durable.
    pub fn create(disk: &dyn Disk, header: VolumeHeader) -> io::Result<Self> {
        let file = disk.create(&Self::path(header.number))?;
        file.write_at(0, &header.encode())?;
        file.sync()?;
        disk.sync_dir(DIR)?;
        disk.sync_dir("")?;
        Ok(Self::resume(header, file, ALIGN))
    }

    /// A volume whose records below `tail` are whole and durable.
    pub fn resume(header: VolumeHeader, file: Arc<dyn File>, tail: u64) -> Self {
        let state = State {
            tail,
            synced_below: tail,
            ..State::default()
        };
        Volume {
            header,
            file,
            state: Mutex::new(state),
            turn: Default::default(),
            syncing: Default::default(),
        }
    }

    /// Reserves room for a record with `len` bytes of payload, unless the volume would grow over `bytes_max` (an empty
    /// volume takes one record of any length) or takes no more records.
    pub fn reserve(&self, len: u32, bytes_max: u64) -> Option<Reservation> {
        let mut state = self.state();
        let end = state.tail + record_bytes(len);
        if state.sealed || (end > bytes_max && state.tail > ALIGN) {
            return None;
        }
        let offset = state.tail;
        state.tail = end;
        state.in_flight.insert(offset);
        state.unlisted.insert(offset);
        Some(Reservation {
            offset,
            synced_below: state.synced_below,
        })
    }

    /// Writes a record into its room. Blocks. Must be called once for each reservation.
    pub fn write(
        &self,
        room: &Reservation,
        header: &RecordHeader,
        payload: &Bytes,
    ) -> io::Result<Ticket> {
        if let Err(error) = self
            .file
            .write_at(room.offset + HEADER_BYTES as u64, payload)
        {
            // There is no header yet, so a scan will see no record here.
            let _ = self.file.punch_hole(room.offset, record_bytes(header.len));
            self.release(room);
            return Err(error);
        }
        let head = header.encode(&self.header.key, room.offset);
        if let Err(error) = self.file.write_at(room.offset, &head) {
            // The header may be there in part: it stays in flight, so `synced_below` never passes it.
            self.state().sealed = true;
            return Err(error);
        }
        let mut state = self.state();
        state.in_flight.remove(&room.offset);
        state.finished += 1;
        Ok(Ticket(state.finished))
    }

    /// Gives up a reservation that was not written to.
    pub fn release(&self, room: &Reservation) {
        let mut state = self.state();
        state.in_flight.remove(&room.offset);
        state.unlisted.remove(&room.offset);
    }

    /// Says, with the next sync, that a delete happened after the checkpoint with this number; once for each number.
    /// Blocks.
    pub fn touch(&self, number: u64) -> io::Result<()> {
        if self.state().touch >= number {
            return Ok(());
        }
        self.file
            .write_at(TOUCH_AT, &encode_touch(&self.header.key, number))?;
        self.state().touch = number;
        Ok(())
    }

    /// Below which offset every live record is durable and in the index.
    pub fn listed_below(&self) -> u64 {
        let state = self.state();
        state
            .unlisted
            .first()
            .map_or(state.synced_below, |first| state.synced_below.min(*first))
    }

    /// Marks the record at `offset` dead. Blocks; durable after a sync up to the ticket.
    pub fn mark_dead(&self, offset: u64) -> io::Result<Ticket> {
        self.file
            .write_at(offset + MARK_AT, &dead_mark(&self.header.key, offset))?;
        let mut state = self.state();
        state.finished += 1;
        Ok(Ticket(state.finished))
    }

    /// Gives back the space of a dead record's payload; a failure only costs space. Blocks.
    pub fn punch(&self, offset: u64, len: u32) {
        let end = offset + record_bytes(len);
        let from = offset + ALIGN;
        if end > from {
            let _ = self.file.punch_hole(from, end - from);
        }
    }

    /// Waits until a sync covered the write with this ticket.
    pub async fn sync_up_to(
        self: &Arc<Self>,
        platform: &Arc<dyn Platform>,
        ticket: Ticket,
    ) -> Result<(), BlockError> {
        let _turn = self.turn.lock().await;
        if self.covered(ticket)? {
            return Ok(());
        }
        let this = self.clone();
        platform.blocking(move || this.sync_now()).await
    }

    fn covered(&self, ticket: Ticket) -> Result<bool, BlockError> {
        let state = self.state();
        match &state.fenced {
            // What was synced before the failure is safe even so.
            _ if state.synced >= ticket.0 => Ok(true),
            Some(why) => Err(self.fenced(why)),
            None => Ok(false),
        }
    }

    fn sync_now(&self) -> Result<(), BlockError> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (finished, below) = {
            let state = self.state();
            if let Some(why) = &state.fenced {
                return Err(self.fenced(why));
            }
            (
                state.finished,
                state.in_flight.first().copied().unwrap_or(state.tail),
            )
        };
        let result = self.file.sync();
        let mut state = self.state();
        match result {
            Ok(()) => {
                state.synced = finished;
                state.synced_below = below;
                Ok(())
            }
            Err(error) => {
                let why = error.to_string();
                let fenced = self.fenced(&why);
                state.fenced = Some(why);
                state.sealed = true;
                Err(fenced)
            }
        }
    }

    fn fenced(&self, why: &str) -> BlockError {
        BlockError::Fenced {
            volume: self.header.number,
            why: why.to_owned(),
        }
    }

    /// Counts a record, which is in the index now, as live.
    pub fn add_live(&self, offset: u64, len: u32) {
        let mut state = self.state();
        state.unlisted.remove(&offset);
        state.live_records += 1;
        state.live_bytes += u64::from(len);
    }

    /// Counts a record as dead.
    pub fn drop_live(&self, len: u32) {
        let mut state = self.state();
        state.live_records -= 1;
        state.live_bytes -= u64::from(len);
    }

    /// Takes no more records from now on.
    pub fn seal(&self) {
        self.state().sealed = true;
    }

    /// Whether nothing in the volume is live and nothing more will come: no record is being written, or waits for a sync
    /// or for its place in the index.
    pub fn is_spent(&self) -> bool {
        let state = self.state();
        let nothing_comes = state.sealed && state.unlisted.is_empty() && state.fenced.is_none();
        nothing_comes && state.live_records == 0
    }

    /// Why the volume is fenced, if it is.
    pub fn fence_reason(&self) -> Option<String> {
        self.state().fenced.clone()
    }

    /// Length, live bytes of payload.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state();
        (state.tail, state.live_bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
