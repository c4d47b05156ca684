//! What a [`Disk`] must do; what a crash leaves is not part of it.

use std::io::ErrorKind;
use std::sync::Arc;

use platform::{Disk, File};

/// Runs the whole suite; `empty` makes a disk without files each time.
///
/// # Panics
/// When the disk does something else than its trait says.
pub fn run(empty: impl Fn() -> Arc<dyn Disk>) {
    for test in [
        bytes_are_read_as_they_were_written,
        a_read_past_the_end_says_so,
        a_gap_reads_as_zeros,
        lengths_change_both_ways,
        a_hole_keeps_the_length_and_the_rest,
        creating_again_cuts,
        names_are_listed_by_folder,
        a_rename_replaces,
        what_is_missing_is_reported_or_fine,
        an_open_file_outlives_its_name,
        syncs_and_space_answer,
    ] {
        test(&*empty());
    }
}

fn new_file(disk: &dyn Disk, path: &str, data: &[u8]) -> Arc<dyn File> {
    let file = disk.create(path).unwrap();
    file.write_at(0, data).unwrap();
    file
}

fn read_all(file: &dyn File) -> Vec<u8> {
    let mut out = vec![0xee; file.len().unwrap() as usize];
    file.read_at(0, &mut out).unwrap();
    out
}

fn bytes_are_read_as_they_were_written(disk: &dyn Disk) {
    let file = new_file(disk, "a/b/c", b"0123456789");
    assert!(!file.is_empty().unwrap());
    file.write_at(3, b"xyz").unwrap();
    assert_eq!(read_all(&*file), b"012xyz6789");
    assert_eq!(read_all(&*disk.open("a/b/c").unwrap()), b"012xyz6789");
    let big: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    file.write_at(4090, &big).unwrap();
    let mut out = vec![0; 50_000];
    file.read_at(4090 + 7, &mut out).unwrap();
    assert_eq!(out, big[7..50_007]);
}

fn a_read_past_the_end_says_so(disk: &dyn Disk) {
    let file = new_file(disk, "f", b"12345");
    for offset in [1, 5, 6, 1 << 30] {
        let error = file.read_at(offset, &mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "at {offset}");
    }
    file.read_at(5, &mut []).unwrap();
}

fn a_gap_reads_as_zeros(disk: &dyn Disk) {
    let file = new_file(disk, "f", b"1");
    file.write_at(10_000, b"2").unwrap();
    let all = read_all(&*file);
    assert_eq!((all.len(), all[0], all[10_000]), (10_001, b'1', b'2'));
    assert!(all[1..10_000].iter().all(|byte| *byte == 0));
}

fn lengths_change_both_ways(disk: &dyn Disk) {
    let file = new_file(disk, "f", &[1; 9000]);
    file.set_len(5).unwrap();
    file.set_len(9000).unwrap();
    let all = read_all(&*file);
    assert_eq!(all[..5], [1; 5]);
    assert!(
        all[5..].iter().all(|byte| *byte == 0),
        "what was cut off does not come back"
    );
    file.set_len(0).unwrap();
    assert!(file.is_empty().unwrap());
}

fn a_hole_keeps_the_length_and_the_rest(disk: &dyn Disk) {
    let file = new_file(disk, "f", &[7; 20_000]);
    file.punch_hole(5000, 10_000).unwrap();
    let all = read_all(&*file);
    assert_eq!(all.len(), 20_000);
    assert!(
        all[..5000]
            .iter()
            .chain(&all[15_000..])
            .all(|byte| *byte == 7)
    );
    assert!(all[5000..15_000].iter().all(|byte| [0, 7].contains(byte)));
    file.punch_hole(19_000, 1 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 20_000);
}

fn creating_again_cuts(disk: &dyn Disk) {
    let old = new_file(disk, "f", b"old bytes");
    let new = disk.create("f").unwrap();
    assert!(new.is_empty().unwrap() && old.is_empty().unwrap());
}

fn names_are_listed_by_folder(disk: &dyn Disk) {
    for path in ["d/b", "d/a", "d/sub/x", "top"] {
        disk.create(path).unwrap();
    }
    assert_eq!(disk.list("d").unwrap(), ["a", "b", "sub"]);
    assert_eq!(disk.list("").unwrap(), ["d", "top"]);
    assert!(disk.list("none").unwrap().is_empty());
    for (path, there) in [("d", true), ("d/a", true), ("d/sub", true), ("d/c", false)] {
        assert_eq!(disk.exists(path).unwrap(), there, "{path}");
    }
}

fn a_rename_replaces(disk: &dyn Disk) {
    let new = new_file(disk, "d/new", b"new");
    new_file(disk, "d/old", b"old");
    disk.rename("d/new", "d/old").unwrap();
    assert_eq!(disk.list("d").unwrap(), ["old"]);
    assert_eq!(read_all(&*disk.open("d/old").unwrap()), b"new");
    new.write_at(0, b"NEW").unwrap();
    assert_eq!(read_all(&*disk.open("d/old").unwrap()), b"NEW");
}

fn what_is_missing_is_reported_or_fine(disk: &dyn Disk) {
    assert_eq!(disk.open("none").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        disk.rename("none", "other").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    disk.create("f").unwrap();
    assert_eq!(
        disk.rename("f", "no/folder/f").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    disk.remove("none").unwrap();
    disk.remove("f").unwrap();
    assert!(!disk.exists("f").unwrap());
    assert_eq!(
        disk.sync_dir("none").unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

fn an_open_file_outlives_its_name(disk: &dyn Disk) {
    let file = new_file(disk, "f", b"still");
    disk.remove("f").unwrap();
    let other = new_file(disk, "f", b"other");
    assert_eq!(read_all(&*file), b"still");
    file.write_at(0, b"STILL").unwrap();
    file.sync().unwrap();
    assert_eq!(
        (read_all(&*file), read_all(&*other)),
        (b"STILL".to_vec(), b"other".to_vec())
    );
}

fn syncs_and_space_answer(disk: &dyn Disk) {
    new_file(disk, "d/f", b"x").sync().unwrap();
    disk.sync_dir("d").unwrap();
    disk.sync_dir("").unwrap();
    let space = disk.space().unwrap();
    assert!(space.free <= space.total && space.total > 0);
}
