package redis

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"

	"github.com/redis/rueidis"
)

var (
	//go:embed take.lua
	takeText string
	//go:embed give.lua
	giveText string

	takeScript = newScript(takeText)
	giveScript = newScript(giveText)
)

// script runs by its digest once Redis has loaded it. Unlike rueidis.Lua, it repeats only
// the runs whose node has not loaded it.
type script struct{ text, digest string }

func newScript(text string) *script {
	sum := sha1.Sum([]byte(text)) // as Redis names it: not for security
	return &script{text, hex.EncodeToString(sum[:])}
}

// exec is one run, on one key.
type exec struct {
	key  string
	args []string
}

// run pipelines all runs and returns the results in their order.
func (s *script) run(ctx context.Context, client rueidis.Client, runs []exec) []rueidis.RedisResult {
	commands := make([]rueidis.Completed, len(runs))
	for i, e := range runs {
		commands[i] = client.B().Evalsha().Sha1(s.digest).Numkeys(1).Key(e.key).Arg(e.args...).Build()
	}
	answers := client.DoMulti(ctx, commands...)
	var again []int
	commands = nil
	for i, a := range answers {
		if err, ok := rueidis.IsRedisErr(a.Error()); ok && err.IsNoScript() {
			again = append(again, i)
			commands = append(commands, client.B().Eval().Script(s.text).Numkeys(1).Key(runs[i].key).Arg(runs[i].args...).Build())
		}
	}
	if len(again) > 0 {
		for n, a := range client.DoMulti(ctx, commands...) {
			answers[again[n]] = a
		}
	}
	return answers
}
