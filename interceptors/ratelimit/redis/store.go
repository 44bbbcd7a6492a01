package redis

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/meshlite-go/meshlite/interceptors/ratelimit"
	"github.com/meshlite-go/meshlite/internal/redisconn"
)

// key is in a slot of its own, unless the prefix has a tag: then all are in one.
func (r *Redis) key(c ratelimit.Charge) string {
	return r.conn.Prefix + "{" + base64.RawURLEncoding.EncodeToString(c.Key[:]) + "}"
}

// Take decides on charges in one round trip, and in a second one refunds the others if one
// of several limits has refused. It fails with [ErrAway] at once while Redis is away.
func (r *Redis) Take(ctx context.Context, charges []ratelimit.Charge) ([]ratelimit.Taken, error) {
	if err := r.conn.TurnedAway(); err != nil {
		return nil, err
	}
	r.asked.Add(uint64(len(charges)))
	return redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) ([]ratelimit.Taken, error) {
		all, err := r.take(ctx, client, charges)
		if err == nil && !refused(all) {
			return all, nil
		}
		if _, giveErr := r.giveBack(ctx, client, admitted(all)); err == nil {
			err = giveErr
		}
		return all, err
	})
}

// take returns what was taken, also with an error.
func (r *Redis) take(ctx context.Context, client rueidis.Client, charges []ratelimit.Charge) ([]ratelimit.Taken, error) {
	runs := make([]exec, len(charges))
	for i, c := range charges {
		runs[i] = exec{r.key(c), []string{nanoseconds(c.Cost), nanoseconds(c.Burst), nanoseconds(c.Patience)}}
	}
	all := make([]ratelimit.Taken, len(charges))
	var failed error
	for i, answer := range takeScript.run(ctx, client, runs) {
		text, err := answer.ToString()
		if err == nil {
			all[i], err = parse(text)
		}
		if err != nil {
			failed = err
		}
		all[i].Charge = charges[i]
	}
	return all, failed
}

// refused reports whether a limit in force has refused its charge.
func refused(all []ratelimit.Taken) bool {
	for _, t := range all {
		if !t.Admitted && !t.Charge.Shadow {
			return true
		}
	}
	return false
}

func admitted(all []ratelimit.Taken) (taken []ratelimit.Taken) {
	for _, t := range all {
		if t.Admitted {
			taken = append(taken, t)
		}
	}
	return taken
}

// Give refunds what time has not given back, in one round trip. It fails with
// [ErrAway] at once while Redis is away.
func (r *Redis) Give(ctx context.Context, taken []ratelimit.Taken) (given int, err error) {
	given, err = redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (int, error) {
		return r.giveBack(ctx, client, taken)
	})
	r.given.Add(uint64(given))
	return given, err
}

func (r *Redis) giveBack(ctx context.Context, client rueidis.Client, taken []ratelimit.Taken) (given int, failed error) {
	if len(taken) == 0 {
		return 0, nil
	}
	runs := make([]exec, len(taken))
	for i, t := range taken {
		full := [...]string{strconv.FormatInt(t.FullAt/1e9, 10), strconv.FormatInt(t.FullAt%1e9, 10)}
		runs[i] = exec{r.key(t.Charge), []string{nanoseconds(t.Charge.Cost), nanoseconds(t.Charge.Burst), full[0], full[1]}}
	}
	for _, answer := range giveScript.run(ctx, client, runs) {
		n, err := answer.ToInt64()
		if err != nil {
			failed = err
		}
		given += int(n)
	}
	return given, failed
}

// Standing runs a charge of nothing, which is not admitted.
func (r *Redis) Standing(ctx context.Context, c ratelimit.Charge) (ratelimit.Taken, error) {
	return redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (ratelimit.Taken, error) {
		c.Cost = 0
		all, err := r.take(ctx, client, []ratelimit.Charge{c})
		return all[0], err
	})
}

// Reset forgets the key.
func (r *Redis) Reset(ctx context.Context, c ratelimit.Charge) error {
	_, err := redisconn.Call(ctx, r.conn, func(ctx context.Context, client rueidis.Client) (struct{}, error) {
		return struct{}{}, client.Do(ctx, client.B().Del().Key(r.key(c)).Build()).Error()
	})
	return err
}

func nanoseconds(d time.Duration) string { return strconv.FormatInt(int64(d), 10) }

// parse reads "admitted wait used seconds nanoseconds", the last two by the server's clock.
func parse(text string) (ratelimit.Taken, error) {
	var n [5]int64
	fields := strings.Fields(text)
	if len(fields) != len(n) {
		return ratelimit.Taken{}, fmt.Errorf("redis: the script has answered %.80q", text)
	}
	for i, field := range fields {
		var err error
		if n[i], err = strconv.ParseInt(field, 10, 64); err != nil {
			return ratelimit.Taken{}, fmt.Errorf("redis: the script has answered %.80q: %w", text, err)
		}
	}
	t := ratelimit.Taken{Used: time.Duration(n[2]), FullAt: n[3]*1e9 + n[4] + n[2]}
	t.Admitted, t.RetryAfter = n[0] == 1, time.Duration(n[1])
	return t, nil
}
