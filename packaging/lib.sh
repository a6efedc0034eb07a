# shellcheck shell=bash
# Functions for the shell scripts of this repository; to be sourced, with `set -eu` in force.

_NAMES=/etc/nsswitch.conf
_NAMES_BEFORE=$_NAMES.before-samba-rvss

# Print a sentence and end.
die() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit 1
}

# End unless root runs us. $1 says what root is needed for.
need_root() {
    ((EUID == 0)) || die "only root can $1: run it again with sudo"
}

# Install those of the named Debian packages that are missing. Needs no network if none is, and
# starts no service.
install_missing() {
    local package missing=()
    _names_as_before || die "cannot put $_NAMES back as it was: move $_NAMES_BEFORE there"
    for package in "$@"; do
        # shellcheck disable=SC2016 # dpkg-query expands it, not the shell
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null ||
        die "apt-get is not there: install these packages' equivalents by hand: ${missing[*]}"
    ((EUID == 0)) || die "only root can install what is missing: apt-get install ${missing[*]}"
    printf '%s: installing %s\n' "${0##*/}" "${missing[*]}" >&2
    local log
    log=$(mktemp)
    if ! _apt_install "${missing[@]}" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]}: see its messages above"
    fi
    rm -f "$log"
}

# A subshell, so that its traps are its own. The lock keeps two of us from taking away each other's
# policy. Chained, because `set -e` does not hold inside a condition. A signal waits for apt-get,
# which would go on after the end of this shell has undone what is for it alone.
_apt_install() (
    export DEBIAN_FRONTEND=noninteractive
    trap : HUP INT TERM
    _lock_installing &&
        _put_names_back &&
        _keep_services_down &&
        _keep_names_known "$@" &&
        apt-get -q update 9>&- &&
        apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 install "$@" 9>&-
)

# Keep packages from starting their services (samba starts smbd) until this shell ends. An
# administrator's own policy is left as it is.
_keep_services_down() {
    local policy=/usr/sbin/policy-rc.d mark='# temporary, by samba-rvss'
    if [[ -e $policy ]] && ! grep -qxF "$mark" "$policy"; then
        return 0
    fi
    _at_exit "rm -f $policy"
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy" && chmod 0755 "$policy"
}

# Leave it to the administrator whom the machine asks for users and groups: libnss-winbind's postinst
# adds winbind. It is as before when this shell ends, or where that was killed, at the next
# installation.
_keep_names_known() {
    [[ -e $_NAMES && " $* " == *" libnss-winbind "* ]] || return 0
    # Under its name it is whole.
    cp -p "$_NAMES" "$_NAMES_BEFORE.new" && mv -T "$_NAMES_BEFORE.new" "$_NAMES_BEFORE" || return
    _at_exit "mv -T $_NAMES_BEFORE $_NAMES"
}

# Put back what one of us has left that was killed.
_names_as_before() (
    [[ ! -e $_NAMES_BEFORE ]] || { _lock_installing && _put_names_back; }
)

_put_names_back() {
    [[ ! -e $_NAMES_BEFORE ]] || mv -T "$_NAMES_BEFORE" "$_NAMES"
}

_lock_installing() {
    exec 9>/run/lock/samba-rvss-install && flock 9
}

# Run one more line when this shell ends.
_at_exit() {
    _at_end=${_at_end:+$_at_end; }$1
    # shellcheck disable=SC2064 # the line as it is now
    trap "$_at_end" EXIT
}
