//! Records to commands, as they go over the wire.

use api_types::Record;
use api_types::envelope::write_envelope;

use super::config::Config;
use super::slots;
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::template::TemplateError;
use crate::template::command::CommandTemplate;

pub(super) struct Commands {
    template: CommandTemplate,
    payload: PayloadFormat,
    /// A single server has no slots.
    has_slots: bool,
}

pub(super) struct Command {
    pub(super) bytes: Vec<u8>,
    pub(super) slot: u16,
}

impl Commands {
    pub(super) fn new(config: &Config, has_slots: bool) -> Result<Self, TemplateError> {
        let template = CommandTemplate::parse(&config.command_template)?;
        Ok(Self { template, payload: config.payload_format, has_slots })
    }

    pub(super) fn command(&self, record: &Record) -> Result<Command, RecordFault> {
        let arguments = match self.payload {
            PayloadFormat::Raw => self.template.render(record, &record.message.payload),
            PayloadFormat::Envelope => {
                let mut envelope = Vec::new();
                write_envelope(record, &mut envelope);
                self.template.render(record, &envelope)
            }
        };
        let mut arguments = arguments.map_err(|error| RecordFault::offline("missing_value", error.to_string()))?;
        arguments.insert(0, self.template.name().as_bytes().to_vec());
        let mut command = redis::Cmd::new();
        for argument in &arguments {
            command.arg(argument);
        }
        let slot = if self.has_slots { slots::slot_of(&arguments) } else { 0 };
        Ok(Command { bytes: command.get_packed_command(), slot })
    }
}
