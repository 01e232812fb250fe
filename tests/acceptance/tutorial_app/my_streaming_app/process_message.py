"""
Process Message:
===================================================================
Takes messages off the stream and keeps each one as a JSON file
"""
import uuid
from typing import Optional, Union

from taskstream.app.context import EventContext
from taskstream.app.logger import app_extra_logger
from taskstream.toolkit.storage.fs import FileStorage

from .data_model import Status, MyMessage

logger, extra = app_extra_logger()

__steps__ = ['save_message']

output: FileStorage = None


async def __init_event__(context: EventContext):
    """
    Opens the folder named in the configuration's env
    """
    global output
    if output is None:
        save_path = context.env['process_message']['save_path']
        logger.info(context, "Initializing FileStorage...", extra=extra(path=save_path))
        output = FileStorage(path=save_path)


async def save_message(message: MyMessage, context: EventContext) -> MyMessage:
    """
    Marks the message as processed and saves it under a new key
    """
    assert output
    logger.info(context, "Received message", extra=extra(length=len(message.text)))
    message.status = Status.PROCESSED
    key = str(uuid.uuid4())
    saved_path = await output.store(key=key, value=message)
    logger.info(context, "Message saved", extra=extra(path=saved_path))
