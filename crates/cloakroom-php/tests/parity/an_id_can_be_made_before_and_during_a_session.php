<?php
// ini: session.use_strict_mode=1
var_dump(strlen(session_create_id()), strlen(session_create_id('pre-')));
session_start();
$_SESSION['a'] = 1;
$held = session_id();
$made = session_create_id('during-');
var_dump(str_starts_with($made, 'during-'), $made !== $held);
$_SESSION['b'] = 2;
session_write_close();
session_id($held);
session_start();
var_dump($_SESSION);
session_write_close();
ini_set('session.use_strict_mode', 0);
session_id($made);
session_start();
var_dump($_SESSION, session_id() === $made);
