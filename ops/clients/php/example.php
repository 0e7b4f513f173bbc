<?php

/** A page that shows a movie, and counts the view: one line in place of an UPDATE of the application's own. */

declare(strict_types=1);

require __DIR__ . '/Client.php';

function show(string $uuid): string
{
    // Before, in Eloquent:   $movie->increment('views');
    // Before, in SQL:        UPDATE jav SET views = views + 1 WHERE uuid = …
    Tallyd\Client::track('view', 'movie', $uuid);

    return "<h1>$uuid</h1>\n";
}

echo show($argv[1] ?? '0f8fad5b-d9cb-469f-a165-70867728950e');
