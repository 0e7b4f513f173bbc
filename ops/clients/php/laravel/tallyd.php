<?php

// The settings of Tallyd\Client; Client::DEFAULTS has them all. `artisan vendor:publish --tag=tallyd` copies this file.

declare(strict_types=1);

return [
    'url' => env('TALLYD_URL', 'http://127.0.0.1:8080'),
    'domain' => env('TALLYD_DOMAIN', ''),
    'key' => env('TALLYD_KEY', ''),
    'spool' => env('TALLYD_SPOOL', storage_path('tallyd')),
];
