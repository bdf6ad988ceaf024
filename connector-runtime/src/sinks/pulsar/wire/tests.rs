use super::super::proto::{SendReceipt, Success};
use super::*;

fn frame(said: &BaseCommand) -> BytesMut {
    let mut bytes = BytesMut::new();
    command(said, &mut bytes);
    bytes
}

#[test]
fn commands_come_out_whole_however_they_come_in() {
    let success = BaseCommand { success: Some(Success { request_id: 7 }), ..of(CommandKind::Success) };
    let receipt = SendReceipt { producer_id: 3, sequence_id: 1 << 40 };
    let receipt = BaseCommand { send_receipt: Some(receipt), ..of(CommandKind::SendReceipt) };
    let bytes = [frame(&success), frame(&ping()), frame(&receipt)].concat();
    let mut inbox = BytesMut::new();
    let mut heard = Vec::new();
    for byte in bytes {
        inbox.put_u8(byte);
        heard.extend(decode(&mut inbox).expect("can be read"));
    }
    let [Heard::Answer { request_id: 7, answer: Answer::Success }, Heard::Ping, Heard::Receipt(receipt)] = &heard[..]
    else {
        panic!("{heard:?}")
    };
    assert_eq!((receipt.producer_id, receipt.sequence_id), (3, 1 << 40));
    assert!(inbox.is_empty());
}

#[test]
fn what_is_no_command_is_told_from_what_is_none_yet() {
    let decode = |bytes: &[u8]| decode(&mut BytesMut::from(bytes));
    assert!(matches!(decode(b""), Ok(None)));
    assert!(matches!(decode(&[0, 0, 0, 9]), Ok(None)));
    // Another protocol altogether.
    assert!(matches!(decode(b"HTTP/1.1 400 Bad Request\r\n"), Err(WireError::TooLarge { .. })));
    // The command is longer than its frame.
    assert!(matches!(decode(&[0, 0, 0, 5, 0, 0, 0, 2, 8]), Err(WireError::Unreadable)));
    assert!(matches!(decode(&[0, 0, 0, 2, 0, 0]), Err(WireError::Unreadable)));
    assert!(matches!(decode(&[0, 0, 0, 5, 0, 0, 0, 1, 0xff]), Err(WireError::Command(_))));
}

#[test]
fn a_command_that_is_not_known_is_passed_over() {
    // 64 came after this protocol version.
    let unknown = BaseCommand { kind: 64, ..BaseCommand::default() };
    assert!(matches!(decode(&mut frame(&unknown)), Ok(Some(Heard::Other(64)))));
    // One that lacks what its kind says.
    assert!(matches!(decode(&mut frame(&of(CommandKind::SendReceipt))), Ok(Some(Heard::Other(7)))));
}

#[test]
fn an_entry_is_checked_from_its_metadata_on() {
    let metadata = MessageMetadata { producer_name: "p".into(), sequence_id: 1, ..MessageMetadata::default() };
    let frame = entry(&of(CommandKind::Send), &metadata, b"payload").expect("can be written");
    assert_eq!(size_at(&frame, 0), Some(frame.len() - SIZE_BYTES));
    let command_bytes = size_at(&frame, SIZE_BYTES).expect("has a command");
    let rest = &frame[2 * SIZE_BYTES + command_bytes..];
    assert_eq!(rest[..2], [0x0e, 0x01]);
    let (checksum, checked) = rest[2..].split_at(SIZE_BYTES);
    assert_eq!(checksum, crc32c::crc32c(checked).to_be_bytes());
    let metadata_bytes = size_at(checked, 0).expect("has metadata");
    let (read, payload) = checked[SIZE_BYTES..].split_at(metadata_bytes);
    assert_eq!(MessageMetadata::decode(read).expect("can be read"), metadata);
    assert_eq!(payload, b"payload");
}
