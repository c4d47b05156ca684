use rand::SeedableRng;

use super::*;

fn write_new(disk: &SimDisk, path: &str, data: &[u8]) -> Arc<dyn File> {
    let file = disk.create(path).unwrap();
    file.write_at(0, data).unwrap();
    file
}

fn read_all(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(path).ok()?;
    let mut out = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut out).unwrap();
    Some(out)
}

/// What the disks of many crashes show of `path`.
fn after_crashes(setup: impl Fn(&SimDisk), path: &str) -> Vec<Option<Vec<u8>>> {
    let crash = |seed| {
        let disk = SimDisk::new();
        setup(&disk);
        read_all(&disk.crash(&mut StdRng::seed_from_u64(seed)), path)
    };
    (0..64).map(crash).collect()
}

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    let outcomes = after_crashes(
        |disk| {
            let file = write_new(disk, "a/synced", b"old");
            file.sync().unwrap();
            disk.sync_dir("a").unwrap();
            file.write_at(0, b"new").unwrap();
        },
        "a/synced",
    );
    assert!(outcomes.contains(&Some(b"old".to_vec())));
    assert!(outcomes.contains(&Some(b"new".to_vec())));
    assert!(
        outcomes
            .iter()
            .all(|seen| matches!(seen.as_deref(), Some(b"old" | b"new")))
    );
}

#[test]
fn unsynced_writes_tear_and_come_out_of_order() {
    let outcomes = after_crashes(
        |disk| {
            let file = write_new(disk, "f", &[0; 8192]);
            file.sync().unwrap();
            disk.sync_dir("").unwrap();
            file.write_at(0, &[1; 4096]).unwrap();
            file.write_at(4096, &[2; 4096]).unwrap();
        },
        "f",
    );
    let outcomes: Vec<Vec<u8>> = outcomes.into_iter().flatten().collect();
    assert!(
        outcomes
            .iter()
            .any(|bytes| bytes[..4096].contains(&1) && bytes[..4096].contains(&0))
    );
    assert!(
        outcomes
            .iter()
            .any(|bytes| bytes[0] == 0 && bytes[4096..] == [2; 4096])
    );
    assert!(
        outcomes
            .iter()
            .flat_map(|bytes| bytes.chunks(512))
            .all(|sector| { sector.iter().all(|byte| *byte == sector[0]) })
    );
}

#[test]
fn names_need_the_sync_of_their_folder() {
    let outcomes = after_crashes(
        |disk| {
            write_new(disk, "new", b"new").sync().unwrap();
            write_new(disk, "current", b"old").sync().unwrap();
            disk.sync_dir("").unwrap();
            disk.rename("new", "current").unwrap();
        },
        "current",
    );
    assert!(outcomes.contains(&Some(b"old".to_vec())));
    assert!(outcomes.contains(&Some(b"new".to_vec())));
    assert!(
        !outcomes.contains(&None),
        "a rename leaves the old or the new"
    );

    let unsynced = after_crashes(|disk| write_new(disk, "x", b"x").sync().unwrap(), "x");
    assert!(unsynced.contains(&None) && unsynced.contains(&Some(b"x".to_vec())));
    let synced = |disk: &SimDisk| {
        write_new(disk, "d/x", b"x").sync().unwrap();
        disk.sync_dir("d").unwrap();
        disk.remove("d/x").unwrap();
        disk.sync_dir("d").unwrap();
    };
    assert!(after_crashes(synced, "d/x").iter().all(Option::is_none));
}

#[test]
fn the_same_seed_loses_the_same() {
    let crash = |seed| {
        let disk = SimDisk::new();
        for number in 0..10 {
            write_new(&disk, &format!("f{number}"), &[number; 5000]);
        }
        let disk = disk.crash(&mut StdRng::seed_from_u64(seed));
        disk.files()
            .into_iter()
            .map(|(path, _)| read_all(&disk, &path))
            .collect::<Vec<_>>()
    };
    assert_eq!(crash(1), crash(1));
    assert_ne!(crash(1), crash(2));
}

#[test]
fn handles_of_an_earlier_run_only_fail() {
    let before = SimDisk::new();
    let file = write_new(&before, "f", b"f");
    file.sync().unwrap();
    before.sync_dir("").unwrap();
    let now = before.restart();
    assert!(file.write_at(0, b"x").is_err() && file.sync().is_err());
    assert!(before.create("g").is_err() && before.open("f").is_err());
    assert_eq!(read_all(&now, "f").unwrap(), b"f");
}

#[test]
fn faults_hit_what_they_are_for() {
    let disk = SimDisk::new();
    let (wal, other) = (
        write_new(&disk, "wal/1", b"1"),
        write_new(&disk, "other", b"o"),
    );
    disk.inject(Fault::io(FaultOn::Sync).below("wal/").after(1).times(1));
    assert!(wal.sync().is_ok());
    assert_eq!(wal.sync().unwrap_err().raw_os_error(), Some(EIO));
    assert!(wal.sync().is_ok() && other.sync().is_ok());
    disk.inject(Fault::io(FaultOn::Write));
    assert!(wal.write_at(0, b"2").is_err() && disk.create("new").is_ok());
    disk.clear_faults();
    assert!(wal.write_at(0, b"2").is_ok());
    disk.set_read_only(true);
    assert_eq!(
        wal.write_at(0, b"3").unwrap_err().raw_os_error(),
        Some(EROFS)
    );
    assert!(disk.remove("wal/1").is_err());
    assert_eq!(read_all(&disk, "wal/1").unwrap(), b"2");
}

#[test]
fn a_failed_sync_loses_its_bytes_even_if_the_next_one_works() {
    let disk = SimDisk::new();
    let file = write_new(&disk, "f", b"old");
    file.sync().unwrap();
    disk.sync_dir("").unwrap();
    file.write_at(0, b"new").unwrap();
    disk.inject(Fault::io(FaultOn::Sync).times(1));
    assert!(file.sync().is_err());
    assert!(file.sync().is_ok());
    assert_eq!(read_all(&disk, "f").unwrap(), b"new");
    let disk = disk.crash(&mut StdRng::seed_from_u64(0));
    assert_eq!(read_all(&disk, "f").unwrap(), b"old");
}

#[test]
fn a_full_disk_takes_half_a_write_and_frees_what_is_removed() {
    let disk = SimDisk::new();
    disk.set_capacity(8192);
    let file = write_new(&disk, "f", &[1; 8192]);
    assert_eq!(
        disk.space().unwrap(),
        Space {
            free: 0,
            total: 8192
        }
    );
    assert_eq!(
        file.write_at(8192, &[2; 100]).unwrap_err().raw_os_error(),
        Some(ENOSPC)
    );
    assert!(
        file.write_at(0, &[3; 8192]).is_ok(),
        "old space can be written again"
    );
    file.punch_hole(4096, 1 << 40).unwrap();
    file.sync().unwrap();
    drop(file);
    disk.remove("f").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.space().unwrap().free, 8192);
}

#[test]
fn a_flipped_bit_stays_flipped() {
    let disk = SimDisk::new();
    write_new(&disk, "f", &[0; 10]).sync().unwrap();
    disk.sync_dir("").unwrap();
    disk.flip_bit("f", 3, 1).unwrap();
    let disk = disk.crash(&mut StdRng::seed_from_u64(0));
    assert_eq!(read_all(&disk, "f").unwrap()[..5], [0, 0, 0, 2, 0]);
    assert!(disk.flip_bit("g", 0, 0).is_err());
}
