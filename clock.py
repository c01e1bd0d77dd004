# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The time, read in one place so that tests can set it"

import datetime as dt
import time

from trytond.tools import timezone


def now():
    "Return the time in seconds since the epoch."
    return time.time()


def today():
    "Return the current date in the time zone of the server."
    return dt.datetime.fromtimestamp(now(), timezone.SERVER).date()


def local(time):
    "Return the time of a field DateTime in the time zone of the server."
    return time.replace(tzinfo=timezone.UTC).astimezone(timezone.SERVER)


def timestamp(time):
    "Return time, in seconds since the epoch, as the ORM stores it."
    return dt.datetime.fromtimestamp(time)


def second(time):
    """Return time, in seconds since the epoch, as a field DateTime stores it.

    Return None for None.
    """
    if time is not None:
        return timestamp(time).replace(microsecond=0)
