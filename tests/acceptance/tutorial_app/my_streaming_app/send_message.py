"""
Send Message:
===============================================
Accepts a text and publishes it for later work
"""
from typing import Optional, Union

from taskstream.app.context import EventContext, PostprocessHook
from taskstream.app.api import event_api
from taskstream.app.logger import app_extra_logger

from .data_model import MyData, Status, MyMessage

logger, extra = app_extra_logger()

__steps__ = ['create_message', 'validate']

__api__ = event_api(
    payload=(MyData, "text to publish"),
    responses={
        200: (MyMessage, "the message as it was published"),
        400: (str, "why nothing was published")
    }
)


async def create_message(payload: MyData, context: EventContext) -> MyMessage:
    """
    Wraps the text into a new message
    """
    logger.info(context, "Received data", extra=extra(length=len(payload.text)))
    message = MyMessage(payload.text, Status.NEW)
    return message


async def validate(message: MyMessage, context: EventContext) -> Optional[MyMessage]:
    """
    Texts of fewer than three characters end here, so that nothing is published
    """
    if len(message.text) < 3:
        return None
    message.status = Status.VALID
    return message


async def __postprocess__(message: Optional[MyMessage], context: EventContext,
                          response: PostprocessHook) -> Union[MyMessage, str]:
    """
    Answers what was published, or status 400 and a text where nothing was
    """
    if message is None:
        response.status = 400
        return "invalid data received"
    return message
