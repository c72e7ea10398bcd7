<?php
// ini: session.serialize_handler=php_serialize
session_id(SESSION_ID);
session_start();
$_SESSION['a|b'] = ['x' => [1.5, null, true, "\0\xff"]];
$_SESSION['o'] = new ArrayObject([1]);
// --- next request
session_id(SESSION_ID);
session_start();
var_dump($_SESSION, bin2hex(session_encode()));
