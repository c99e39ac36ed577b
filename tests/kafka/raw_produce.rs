//! A record as a strange producer would write it: over Kafka's own protocol, byte by byte, because the client library
//! takes no header name that is not UTF-8, and compresses in its own way.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::wait::PATIENCE;

/// Writes one record with one header into a partition that the broker at `broker` leads.
pub(crate) fn produce_raw(broker: &str, topic: &str, partition: i32, key: &[u8], value: &[u8], header: (&[u8], &[u8])) {
    let [before, after] = record(key, [value, &[]], 0, header);
    produce_batch(broker, topic, partition, &batch(0, &[before, after].concat()));
}

/// Writes one record whose value has `blanks` spaces between `head` and `tail`, in zstd of about `size` bytes that do not say
/// how much they inflate to, as producers in Java leave it.
pub(crate) fn produce_blanks(
    broker: &str,
    topic: &str,
    workspace: &str,
    (head, blanks, tail): (&[u8], usize, &[u8]),
    size: usize,
) {
    let [before, after] = record(b"key", [head, tail], blanks, (b"workspace", workspace.as_bytes()));
    let frames = blanks.div_ceil(ZSTD_BLOCK_MAX);
    // What is not spared by repetition stands as it is.
    let plain = size.saturating_sub(before.len() + after.len() + 4 * frames).min(blanks);
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd];
    // No size, no checksum, no dictionary; a window of 128 KiB.
    zstd.extend([0, 7 << 3]);
    zstd_block(&mut zstd, 0, before.len(), &before);
    zstd_block(&mut zstd, 0, plain, &vec![b' '; plain]);
    let mut left = blanks - plain;
    while left > 0 {
        let run = left.min(ZSTD_BLOCK_MAX);
        zstd_block(&mut zstd, 1, run, b" ");
        left -= run;
    }
    zstd_block(&mut zstd, 0, after.len(), &after);
    // An empty last block.
    zstd.extend([1, 0, 0]);
    produce_batch(broker, topic, 0, &batch(4, &zstd));
}

/// The longest block of zstd.
const ZSTD_BLOCK_MAX: usize = 128 * 1024;

/// A block that stands as it is (kind 0) or repeats one byte (kind 1).
fn zstd_block(zstd: &mut Vec<u8>, kind: u32, length: usize, content: &[u8]) {
    let header = kind << 1 | u32::try_from(length).unwrap() << 3;
    zstd.extend(&header.to_le_bytes()[..3]);
    zstd.extend(content);
}

fn produce_batch(broker: &str, topic: &str, partition: i32, batch: &[u8]) {
    let mut request = Vec::new();
    request.extend(0_i16.to_be_bytes()); // Produce
    request.extend(7_i16.to_be_bytes()); // its version, the first that takes zstd
    request.extend(1_i32.to_be_bytes()); // correlation
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend((-1_i16).to_be_bytes()); // no transaction
    request.extend((-1_i16).to_be_bytes()); // acknowledged by all
    request.extend(30_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // one topic
    request.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1_i32.to_be_bytes()); // one partition
    request.extend(partition.to_be_bytes());
    request.extend(i32::try_from(batch.len()).unwrap().to_be_bytes());
    request.extend(batch);
    let mut stream = TcpStream::connect(broker.split(',').next().unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut answer).unwrap();
    // Correlation, one topic by name, one partition, its number, then the error code.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[at..at + 2], [0, 0], "the broker took the record: {answer:?}");
}

/// A zigzag variable-length integer, as records have them.
fn varint(bytes: &mut Vec<u8>, number: usize) {
    let mut rest = number << 1;
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
}

fn bytes_of(bytes: &mut Vec<u8>, content: &[u8]) {
    varint(bytes, content.len());
    bytes.extend(content);
}

/// The bytes before and after a gap of this size in a value that has these two parts.
fn record(key: &[u8], [head, tail]: [&[u8]; 2], gap: usize, (name, header): (&[u8], &[u8])) -> [Vec<u8>; 2] {
    // Attributes, then the differences of timestamp and offset to the batch's.
    let mut before = vec![0, 0, 0];
    bytes_of(&mut before, key);
    varint(&mut before, head.len() + gap + tail.len());
    before.extend(head);
    let mut after = tail.to_vec();
    varint(&mut after, 1);
    bytes_of(&mut after, name);
    bytes_of(&mut after, header);
    let mut whole = Vec::new();
    varint(&mut whole, before.len() + gap + after.len());
    whole.extend(before);
    [whole, after]
}

/// A batch of one record, `codec` being its number in Kafka.
fn batch(codec: i16, record: &[u8]) -> Vec<u8> {
    let mut checked = Vec::new();
    checked.extend(codec.to_be_bytes()); // attributes
    checked.extend(0_i32.to_be_bytes()); // last offset's difference
    // The first and the last timestamp: of now, for retention deletes what is old.
    let now_ms = jiff::Timestamp::now().as_millisecond();
    checked.extend(now_ms.to_be_bytes());
    checked.extend(now_ms.to_be_bytes());
    checked.extend((-1_i64).to_be_bytes()); // no producer id
    checked.extend((-1_i16).to_be_bytes());
    checked.extend((-1_i32).to_be_bytes());
    checked.extend(1_i32.to_be_bytes()); // one record
    checked.extend(record);
    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes()); // base offset
    batch.extend(i32::try_from(4 + 1 + 4 + checked.len()).unwrap().to_be_bytes());
    batch.extend((-1_i32).to_be_bytes()); // leader epoch
    batch.push(2); // format
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
