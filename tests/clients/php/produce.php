<?php

/**
 * A page, or many: tracks the events that stand on its input, one as JSON a line: [action, type, id, options].
 *
 * Prints what `track` returned, and what was reported, as JSON. Anything else on its output breaks a test. Each warning
 * is an exception here, also a silenced one, as some applications have it.
 */

declare(strict_types=1);

use Tallyd\Client;

require __DIR__ . '/../../../ops/clients/php/Client.php';

set_error_handler(static fn (int $level, string $text) => throw new ErrorException($text, 0, $level));
$reports = [];
$report = static function (string $text) use (&$reports): void {
    $reports[] = $text;
};
$settings = ['report' => $report];
foreach (Client::DEFAULTS as $name => $default) {
    $given = getenv('TALLYD_' . strtoupper($name));
    if ($given !== false) {
        $settings[$name] = is_int($default) ? (int) $given : $given;
    }
}
Client::configure($settings);
$returned = [];
while (($line = fgets(STDIN)) !== false) {
    $returned[] = Client::track(...json_decode($line, true, 64, JSON_THROW_ON_ERROR));
}
echo json_encode(['returned' => $returned, 'reports' => $reports], JSON_THROW_ON_ERROR);
