<?php

declare(strict_types=1);

namespace Tallyd\Laravel;

use Illuminate\Support\ServiceProvider;
use Tallyd\Client;

/** Gives the client the settings of config/tallyd.php, and artisan the command that drains the spool. */
final class TallydServiceProvider extends ServiceProvider
{
    public function register(): void
    {
        $this->mergeConfigFrom(__DIR__ . '/tallyd.php', 'tallyd');
        $this->app->singleton(Client::class, fn (): Client => new Client($this->settings()));
    }

    public function boot(): void
    {
        Client::configure($this->settings());
        if ($this->app->runningInConsole()) {
            $this->publishes([__DIR__ . '/tallyd.php' => $this->app->configPath('tallyd.php')], 'tallyd');
            $this->commands([DrainCommand::class]);
        }
    }

    /** @return array<string, mixed> */
    private function settings(): array
    {
        $report = function (string $text): void {
            $this->app->make('log')->warning("tallyd: $text");
        };
        return ['report' => $report, ...$this->app->make('config')->get('tallyd')];
    }
}
