//! DNS messages (RFC 1035): a question's bytes in, an answer's bytes out.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};

use super::zone::{Answer, Kind, Record, Zone};

/// Seconds that answers may be kept, as CoreDNS gives by default.
const TTL: u32 = 5;

/// The longest answer over UDP where the client says nothing (RFC 1035), and at most.
const UDP_DEFAULT: u16 = 512;
const UDP_MAX: u16 = 1232;

/// The question of a message that is one.
pub(super) struct Question {
    pub(super) message: Message,
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Question {
    /// Reads a message. `Err` is the answer to one that is no question we take; `None`: not DNS.
    pub(super) fn read(bytes: &[u8]) -> Option<Result<Self, Message>> {
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let refuse = |code| {
            let (id, op) = (message.metadata.id, message.metadata.op_code);
            Some(Err(Message::error_msg(id, op, code)))
        };
        if message.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
        if query.query_class != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        let name = query.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let kind = kind_of(query.query_type);
        Some(Ok(Self { name, kind, message }))
    }

    /// What is asked for.
    pub(super) fn record_type(&self) -> RecordType {
        self.message.queries.first().map_or(RecordType::A, |query| query.query_type)
    }

    /// Bytes that the client takes over UDP.
    pub(super) fn udp_limit(&self) -> usize {
        let asked = self.message.edns.as_ref().map_or(UDP_DEFAULT, Edns::max_payload);
        usize::from(asked.clamp(UDP_DEFAULT, UDP_MAX))
    }

    /// An empty answer with a code.
    pub(super) fn reply(&self, code: ResponseCode) -> Message {
        let asked = &self.message;
        let mut reply = Message::response(asked.metadata.id, OpCode::Query);
        reply.metadata.response_code = code;
        reply.metadata.recursion_desired = asked.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.queries = asked.queries.clone();
        if asked.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            reply.edns = Some(edns);
        }
        reply
    }

    /// The zone's answer on the wire; `None` where the name is not the zone's.
    pub(super) fn answer(&self, zone: &Zone<'_>, answer: &Answer) -> Option<Message> {
        let owner = &self.message.queries.first().expect("one question").name;
        let (code, records, additional) = match answer {
            Answer::NotOurs => return None,
            Answer::NoSuchName => (ResponseCode::NXDomain, &[][..], &[][..]),
            Answer::Records { records, additional } => {
                (ResponseCode::NoError, &records[..], &additional[..])
            }
        };
        let mut reply = self.reply(code);
        reply.metadata.authoritative = true;
        for record in records {
            if let Some(data) = data_of(record, zone) {
                reply.add_answer(WireRecord::from_rdata(owner.clone(), TTL, data));
            }
        }
        for (name, ip) in additional {
            if let Ok(name) = name_of(name) {
                let record = WireRecord::from_rdata(name, TTL, address_data(*ip));
                // What a CNAME leads to is part of the answer, an SRV's address a courtesy.
                match records {
                    [Record::Cname(_)] => reply.add_answer(record),
                    _ => reply.add_additional(record),
                };
            }
        }
        if reply.answers.is_empty()
            && let (Ok(apex), Some(soa)) = (name_of(zone.domain), data_of(&Record::Soa, zone))
        {
            // RFC 2308: the SOA says how long the absence may be remembered.
            reply.add_authority(WireRecord::from_rdata(apex, TTL, soa));
        }
        Some(reply)
    }
}

fn kind_of(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::CNAME => Kind::Cname,
        RecordType::TXT => Kind::Txt,
        RecordType::NS => Kind::Ns,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

fn name_of(text: &str) -> Result<Name, hickory_proto::ProtoError> {
    let mut name = Name::from_ascii(text)?;
    name.set_fqdn(true);
    Ok(name)
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// A record's data; none where a name in it is none.
fn data_of(record: &Record, zone: &Zone<'_>) -> Option<RData> {
    Some(match record {
        Record::Address(ip) => address_data(*ip),
        Record::Cname(name) => RData::CNAME(CNAME(name_of(name).ok()?)),
        Record::Srv { port, target } => RData::SRV(SRV::new(0, 100, *port, name_of(target).ok()?)),
        Record::Ptr(name) => RData::PTR(PTR(name_of(name).ok()?)),
        Record::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Record::Ns(name) => RData::NS(NS(name_of(name).ok()?)),
        Record::Soa => {
            let primary = name_of(&format!("ns.dns.{}", zone.domain)).ok()?;
            let contact = name_of(&format!("hostmaster.{}", zone.domain)).ok()?;
            RData::SOA(SOA::new(primary, contact, 1, 7200, 1800, 86_400, TTL))
        }
    })
}

/// The message as bytes; over UDP cut to `limit` with the truncation bit set.
pub(super) fn encode(message: &Message, limit: Option<usize>) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    match limit {
        Some(limit) if bytes.len() > limit => {
            let mut cut = message.truncate();
            cut.metadata.truncation = true;
            cut.to_vec().ok()
        }
        _ => Some(bytes),
    }
}

/// A question for the addresses of a name, as bytes with its id.
pub(super) fn ask(name: &str, record_type: RecordType, id: u16) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(hickory_proto::op::Query::query(name_of(name).ok()?, record_type));
    message.to_vec().ok()
}

/// Puts the records of another answer behind those of `reply`.
pub(super) fn append(reply: &mut Message, answer: &[u8]) {
    if let Ok(answer) = Message::from_vec(answer) {
        reply.add_answers(answer.answers);
    }
}

/// The addresses in an answer, or the code that it came with.
pub(super) fn addresses(bytes: &[u8]) -> Result<Vec<IpAddr>, ResponseCode> {
    let message = Message::from_vec(bytes).map_err(|_| ResponseCode::ServFail)?;
    if message.metadata.response_code != ResponseCode::NoError {
        return Err(message.metadata.response_code);
    }
    let ips = message.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    });
    Ok(ips.collect())
}
