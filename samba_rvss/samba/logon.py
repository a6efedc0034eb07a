"""Who logs on to a file server, and by which means: a value, which holds no connection.

Place: below all that connects to a Samba as a client. It needs nothing of python-samba, which
would cost each process that only hands it on the memory of Samba's libraries.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Logon:
    """Who logs on, with a password or with a ticket.

    Args:
        user: name of the user, a computer's with its dollar sign; empty to log on anonymously, or
            as whoever ``ccache`` has a ticket of.
        password: in clear.
        domain: the user's, with Kerberos a realm; empty for a user of the server itself.
        use_kerberos: True for Kerberos alone, False for NTLM alone. With Kerberos the server must
            be called by a name that tickets are issued for, not by its address.
        ccache: name of a Kerberos credentials cache, such as "FILE:/run/user/0/krb5cc", with a
            ticket. With a keytab, kinit(1) makes one: for a computer, whose password nobody knows.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    domain: str = ""
    use_kerberos: bool = False
    ccache: str = ""

    @property
    def who(self) -> str:
        """Its user, in words."""
        return self.user or (f"the owner of {self.ccache}" if self.ccache else "nobody")
