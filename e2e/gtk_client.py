# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The desktop client, driven from outside

Each line of the standard input is a JSON list of the name of a function below
and its arguments. Its result is a line of JSON on the standard output.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from threading import Thread

from tryton.client import main  # It chooses the version of GTK
from tryton.gui import Main
from tryton.gui.window import Window
from tryton.gui.window.view_form.view.form_gtk import binary

from gi.repository import Atk, Gdk, Gio, GLib, Gtk  # isort: skip


def see():
    "Return the texts in the active window, and its entries by label."
    texts, entries = [], {}
    for widget in find():
        if isinstance(widget, Atk.EditableText):
            name = label(widget)
            while name in entries:
                # One of several without a label
                name += ' '
            entries[name] = Atk.Text.get_text(widget, 0, -1)
        else:
            texts.append(widget.get_name())
    return texts, entries


def enter(name, value, confirm=True):
    "Replace the text of the entry labelled name, and maybe press Enter in it."
    entry, = [
        widget for widget in find()
        if isinstance(widget, Atk.EditableText) and label(widget) == name]
    Atk.EditableText.set_text_contents(entry, value)
    if confirm:
        Atk.Action.do_action(entry, 0)


def click(name):
    button, = [
        widget for widget in find()
        if widget.get_role() == Atk.Role.PUSH_BUTTON
        and widget.get_name() == name]
    Atk.Action.do_action(button, 0)


def toggle(name):
    "Check or uncheck the box labelled name."
    box, = [
        widget for widget in find()
        if widget.get_role() == Atk.Role.CHECK_BOX and label(widget) == name]
    Atk.Action.do_action(box, 0)


def open_tab(name):
    "Show the page with the name of a form."
    for widget in find():
        if (widget.get_role() == Atk.Role.PAGE_TAB
                and widget.get_name() == name):
            Atk.Selection.add_selection(
                widget.get_parent(), widget.get_index_in_parent())


def open_records(model, name, mode, res_id=None):
    "Open a tab with the records of the model."
    Window.create(model, name=name, mode=[mode], res_id=res_id)


def choose(path):
    "Press the button that asks for a file, and choose the one at the path."
    binary.file_selection = lambda *args, **kwargs: Path(path)
    button, = [
        widget for widget in find()
        if widget.get_role() == Atk.Role.PUSH_BUTTON
        and widget.get_description() == "Select..."]
    Atk.Action.do_action(button, 0)


def open_wizard(model, name):
    "Open the wizard as its entry in the menu does."
    Window.create_wizard(model, {}, name=name)


def close():
    "Close the tabs and the client as its menu does."
    while Main().pages:
        Main().sig_win_close()
    Gio.Application.get_default().activate_action('quit')


def find():
    "Yield what the active window shows to assistive technologies."
    for window in Gtk.Window.list_toplevels():
        if window.is_active():
            yield from walk(window.get_accessible())


def walk(widget):
    if widget.ref_state_set().contains_state(Atk.StateType.SHOWING):
        yield widget
        for i in range(widget.get_n_accessible_children()):
            yield from walk(widget.ref_accessible_child(i))


def label(widget):
    relations = widget.ref_relation_set()
    if not relations.contains(Atk.RelationType.LABELLED_BY):
        return ''
    relation = relations.get_relation_by_type(Atk.RelationType.LABELLED_BY)
    return relation.get_target()[0].get_name()


def listen():
    for line in sys.stdin:
        # What GTK has to do and to draw comes first
        GLib.idle_add(answer, *json.loads(line), priority=GLib.PRIORITY_LOW)


def answer(name, *args):
    try:
        print(json.dumps(FUNCTIONS[name](*args)), flush=True)
    except Exception:
        traceback.print_exc()
        # The client would show it in a dialog and go on
        os._exit(1)


FUNCTIONS = {
    function.__name__: function
    for function in [
        see, enter, click, toggle, choose, open_tab, open_records,
        open_wizard, close]}

# Out of the way of tooltips
Gdk.Display.get_default().get_default_seat().get_pointer().warp(
    Gdk.Screen.get_default(), 0, 0)
Thread(target=listen, daemon=True).start()
main()
