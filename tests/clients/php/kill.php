<?php

/**
 * Kills this process at once, as kill -9 does: after KILL_AT statements of the files that declare ticks, or after the
 * one that deletes the file KILL_WHEN_GONE.
 */

declare(strict_types=1);

$left = (int) getenv('KILL_AT');
$gone = (string) getenv('KILL_WHEN_GONE');
register_tick_function(static function () use (&$left, $gone): void {
    clearstatcache();
    if (--$left === 0 || ($gone !== '' && !file_exists($gone))) {
        exec('kill -9 ' . getmypid());
    }
});
