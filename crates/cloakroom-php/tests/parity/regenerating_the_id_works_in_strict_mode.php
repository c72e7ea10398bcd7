<?php
// ini: session.use_strict_mode=1
session_start();
$_SESSION['a'] = 1;
$old = session_id();
var_dump(session_regenerate_id(), session_regenerate_id(true), session_regenerate_id());
$new = session_id();
$_SESSION['b'] = 2;
session_write_close();
foreach ([$old, $new] as $id) {
    session_id($id);
    session_start();
    var_dump(session_id() === $id, $_SESSION);
    session_write_close();
}
