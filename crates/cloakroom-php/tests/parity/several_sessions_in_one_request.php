<?php
foreach (['one', 'two', 'one', 'three', 'two'] as $id) {
    session_id($id);
    session_start();
    $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    var_dump(session_encode());
    session_write_close();
}
session_id('three');
session_start();
var_dump($_SESSION);
