#!/usr/bin/env php
<?php

/** The drainer as a command: see HELP. */

declare(strict_types=1);

namespace Tallyd;

use InvalidArgumentException;
use RuntimeException;

require_once __DIR__ . '/Client.php';
require_once __DIR__ . '/Drainer.php';

const HELP = <<<'TEXT'
    Sends the events that wait in the spool to tallyd.

      php tallyd-drain.php --once     send what waits, and end: with 0 when all was taken, with 1 when events wait or
                                      went to events.dead
      php tallyd-drain.php --follow   go on until you stop it

      --config FILE   a PHP file that returns the settings of Tallyd\Client::configure
      --help          this text

    The settings also come from the environment, which wins: TALLYD_URL, TALLYD_SPOOL, TALLYD_KEY, TALLYD_KEY_ID,
    TALLYD_SECRET, TALLYD_CA_FILE, TALLYD_GIVE_UP_S. Run it as the user that PHP runs as. Of several drainers of one
    spool one works, and the others stand by (--follow) or end (--once).

    Events that tallyd refuses, events that waited longer than give_up_s, and lines that cannot be read go to
    events.dead in the spool's folder, each with the reason.

    TEXT;

/** @param list<string> $words */
function main(array $words): int
{
    $usage = static function (string $text): int {
        fwrite(STDERR, "tallyd-drain: $text; try --help\n");
        return 2;
    };
    $say = static function (string $text): void {
        fwrite(STDOUT, "tallyd-drain: $text\n");
    };
    $settings = $follow = null;
    while (($word = array_shift($words)) !== null) {
        if ($word === '--help') {
            fwrite(STDOUT, HELP);
            return 0;
        }
        if ($word === '--once' || $word === '--follow') {
            $follow = $word === '--follow';
        } elseif ($word === '--config' && is_file($words[0] ?? '')) {
            $settings = require realpath(array_shift($words));
            if (!is_array($settings)) {
                return $usage('the file of --config returns no array');
            }
        } else {
            return $usage("$word is not known, or lacks its file");
        }
    }
    if ($follow === null) {
        return $usage('say --once or --follow');
    }
    try {
        return (new Drainer(Client::fromEnvironment($settings ?? []), $follow, $say))->run();
    } catch (InvalidArgumentException $error) {
        return $usage($error->getMessage());
    } catch (RuntimeException $error) {
        fwrite(STDERR, "tallyd-drain: {$error->getMessage()}\n");
        return 1;
    }
}

exit(main(array_slice($argv, 1)));
