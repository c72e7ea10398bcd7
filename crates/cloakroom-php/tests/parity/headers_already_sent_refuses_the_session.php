<?php
// ini: output_buffering=0
session_id(SESSION_ID);
echo "output\n";
flush();
var_dump(session_start());
// --- next request
session_id(SESSION_ID);
var_dump(session_start(), $_SESSION);
