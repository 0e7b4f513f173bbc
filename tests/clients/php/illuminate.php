<?php

/**
 * As much of Laravel as the files in ops/clients/php/laravel use, for a machine that has none: `laravel.php` runs them
 * on this. It shows that they work with the client, not that they work with Laravel.
 */

declare(strict_types=1);

namespace Illuminate\Contracts\Queue {
    interface ShouldQueue
    {
    }
}

namespace Illuminate\Bus {
    trait Queueable
    {
    }
}

namespace Illuminate\Foundation\Bus {
    trait Dispatchable
    {
    }
}

namespace Illuminate\Queue {
    trait InteractsWithQueue
    {
        public mixed $job = null;

        public function attempts(): int
        {
            return 1;
        }

        public function release(int $delay = 0): void
        {
            $this->job = "released for $delay s";
        }

        public function fail(?\Throwable $exception = null): void
        {
            $this->job = "failed: {$exception?->getMessage()}";
        }
    }
}

namespace Illuminate\Console {
    class Command
    {
        protected $signature;
        protected $description;
        /** @var list<string> */
        public array $lines = [];

        public function option(string $name): bool
        {
            return false;
        }

        public function line(string $text): void
        {
            $this->lines[] = $text;
        }
    }
}

namespace Illuminate\Support {
    abstract class ServiceProvider
    {
        public function __construct(protected \Tests\Application $app)
        {
        }

        protected function mergeConfigFrom(string $path, string $key): void
        {
            $this->app->bound['config']->set($key, require $path);
        }

        protected function publishes(array $paths, string $group): void
        {
        }

        protected function commands(array $commands): void
        {
            $this->app->commands = $commands;
        }
    }
}

namespace Tests {
    final class Application
    {
        public static self $instance;
        /** @var array<string, mixed> */
        public array $bound = [];
        /** @var list<class-string> */
        public array $commands = [];

        public function __construct(public readonly string $folder)
        {
            self::$instance = $this;
            $this->bound['config'] = new class {
                private array $all = [];

                public function set(string $key, array $values): void
                {
                    $this->all[$key] = $values;
                }

                public function get(string $key): array
                {
                    return $this->all[$key];
                }
            };
            $this->bound['log'] = new class {
                public function warning(string $text): void
                {
                    fwrite(STDERR, "$text\n");
                }
            };
        }

        public function singleton(string $name, \Closure $make): void
        {
            $this->bound[$name] = $make();
        }

        public function make(string $name): mixed
        {
            return $this->bound[$name];
        }

        public function runningInConsole(): bool
        {
            return true;
        }

        public function configPath(string $name): string
        {
            return "$this->folder/config/$name";
        }
    }
}

namespace {
    function app(string $name): mixed
    {
        return \Tests\Application::$instance->make($name);
    }

    function env(string $name, mixed $default): mixed
    {
        $given = getenv($name);
        return $given === false ? $default : $given;
    }

    function storage_path(string $path): string
    {
        return \Tests\Application::$instance->folder . "/storage/$path";
    }
}
