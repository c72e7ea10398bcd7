<?php

declare(strict_types=1);

// What the extension has counted in this worker; nothing where PHP's own handler is in charge.
function status(): array
{
    return function_exists('cloakroom_status') ? cloakroom_status() : [];
}

$server = getenv('BACKEND') ?: gethostname();
$plain = str_starts_with($_SERVER['HTTP_ACCEPT'] ?? '', 'text/plain');
$handler = ini_get('session.save_handler');
$before = status();
$startedAt = microtime(true);

header("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'");

// False means that the store is down or the session is locked by a slower request: the visitor keeps the cookie.
if (!session_start()) {
    http_response_code(503);
    header('Retry-After: 1');
    header('Content-Type: text/plain; charset=utf-8');
    exit("The session is not available just now ($server)\n");
}

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    session_destroy();
    setcookie(session_name(), '', ['expires' => 1, 'path' => '/', 'httponly' => true, 'samesite' => 'Lax']);
    header('Location: /', true, 303);
    exit;
}

$visit = $_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
$trail = $_SESSION['trail'] = array_slice([...$_SESSION['trail'] ?? [], $server], -6);
session_write_close();
$sessionMs = (microtime(true) - $startedAt) * 1000;

$after = status();
$here = fn (string $counter) => $after[$counter] - $before[$counter];

if ($plain) {
    header('Content-Type: text/plain; charset=utf-8');
    exit("Hello #$visit from $server\n");
}

$facts = ['Save handler' => $handler];
if ($handler === 'cloakroom') {
    $facts += [
        'Store' => $after['store'],
        'Round trips' => (string) $here('exchanges'),
        'Waited for the lock' => sprintf('%.2f ms', $here('waited') * 1000),
        'Last write' => $after['last_commit'],
    ];
}
$facts['Session work in all'] = sprintf('%.2f ms', $sessionMs);

// Each server has a colour of its own.
$hue = fn (string $name) => [1 => 222, 2 => 158, 0 => 28][((int) preg_replace('/\D/', '', $name)) % 3];
$html = fn (string $text) => htmlspecialchars($text, ENT_QUOTES);

header('Content-Type: text/html; charset=utf-8');
?>
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hello #<?= $visit ?> from <?= $html($server) ?></title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect x='3' y='7' width='26' height='18' rx='4' fill='%23d9472b'/%3E%3Ccircle cx='22' cy='16' r='3.5' fill='white'/%3E%3C/svg%3E">
<style>
:root {
  --hue: <?= $hue($server) ?>;
  --page: #f3f1ec; --card: #fffdf9; --ink: #1d1b18; --soft: #6d675e; --line: #ddd7cb; --red: #c8401f;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root { --page: #171613; --card: #23211d; --ink: #f3efe6; --soft: #a59e91; --line: #3a3731; --red: #f0714f; }
}
* { box-sizing: border-box; margin: 0; }
body {
  min-height: 100vh; display: grid; place-items: center; padding: 24px 16px;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { width: 100%; max-width: 780px; }
h1 { font-size: 15px; font-weight: 600; letter-spacing: .01em; }
h1 span { color: var(--soft); font-weight: 400; }
.ticket {
  margin-top: 16px; display: grid; grid-template-columns: 1fr 290px; background: var(--card);
  border: 1px solid var(--line); border-radius: 18px; overflow: hidden;
  box-shadow: 0 1px 2px rgb(0 0 0 / .05), 0 18px 40px -18px rgb(0 0 0 / .22);
}
.stub { padding: 36px 40px 34px; display: flex; flex-direction: column; }
.label { font-size: 13px; color: var(--soft); }
.count {
  font-size: clamp(88px, 20vw, 148px); line-height: 1; font-weight: 750; letter-spacing: -.05em;
  font-variant-numeric: tabular-nums; color: var(--red); margin: 8px 0 18px -5px;
}
.from { font-size: 20px; }
.from b, .trail li { color: hsl(var(--hue) 60% 36%); background: hsl(var(--hue) 70% 50% / .13); border-radius: 7px; }
.from b { padding: 2px 9px; font-weight: 650; }
.side { padding: 36px 32px 32px; border-left: 2px dashed var(--line); position: relative; }
.side::before, .side::after {
  content: ""; position: absolute; left: -13px; width: 24px; height: 24px; border-radius: 50%;
  background: var(--page); border: 1px solid var(--line);
}
.side::before { top: -13px; } .side::after { bottom: -13px; }
dl { display: grid; gap: 14px; }
dt { font-size: 13px; color: var(--soft); }
dd { font-weight: 600; font-size: 15px; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.trail { list-style: none; padding: 28px 0 0; margin-top: auto; display: flex; flex-wrap: wrap; gap: 6px; }
.trail li { padding: 1px 8px; font-size: 13px; font-weight: 600; }
.trail li:not(:last-child) { opacity: .8; }
.actions { margin-top: 20px; display: flex; gap: 12px; align-items: center; }
.actions a, .actions button { font: inherit; font-weight: 600; border-radius: 10px; padding: 11px 20px; border: 0; cursor: pointer; }
.actions a { background: var(--ink); color: var(--page); text-decoration: none; }
.actions button { background: none; color: var(--soft); padding-inline: 12px; }
.actions a:hover { opacity: .88; } .actions button:hover { color: var(--ink); }
:focus-visible { outline: 2px solid var(--red); outline-offset: 2px; }
@media (prefers-color-scheme: dark) {
  .from b, .trail li { color: hsl(var(--hue) 75% 74%); background: hsl(var(--hue) 70% 60% / .17); }
}
@media (max-width: 600px) {
  .ticket { grid-template-columns: 1fr; }
  .stub { padding: 28px 26px 26px; }
  .side { padding: 28px 26px; border-left: 0; border-top: 2px dashed var(--line); }
  .side::before, .side::after { top: -13px; bottom: auto; }
  .side::after { left: auto; right: -13px; }
  dl { grid-template-columns: 1fr 1fr; }
  dl .wide { grid-column: 1 / -1; }
  .actions a { flex: 1; text-align: center; }
}
</style>
</head>
<body>
<main>
  <h1>Cloakroom <span>– one session, whichever server answers</span></h1>
  <div class="ticket">
    <section class="stub">
      <p class="label">Hello, this is your visit number</p>
      <p class="count" id="count"><?= $visit ?></p>
      <p class="from">answered by <b id="server"><?= $html($server) ?></b></p>
      <ol class="trail" id="trail" aria-label="The servers that answered you, the latest last">
<?php foreach ($trail as $name): ?>
        <li style="--hue: <?= $hue($name) ?>"><?= $html($name) ?></li>
<?php endforeach ?>
      </ol>
    </section>
    <section class="side">
      <dl>
<?php foreach ($facts as $name => $value): ?>
        <div<?= strlen($value) > 16 ? ' class="wide"' : '' ?>><dt><?= $html($name) ?></dt><dd><?= $html($value) ?></dd></div>
<?php endforeach ?>
      </dl>
    </section>
  </div>
  <form class="actions" method="post">
    <a href="/" id="again">Visit again</a>
    <button id="leave">Start over</button>
  </form>
</main>
</body>
</html>
